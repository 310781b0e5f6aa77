import json

import pytest
from benchmarks.__main__ import NAMES, RESULTS, cases_of, main, parse, settings_of
from benchmarks.cases import OURS, Settings

SIZES = ("full", "quick", "tiny")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_has_cases_in_which_ours_takes_part(name, size, tiny_llama):
    cases = cases_of(name, Settings(size, str(tiny_llama)))
    assert cases
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    assert all(OURS in case.sides for case in cases)
    json.dumps([dict(case.about) for case in cases])


@pytest.mark.parametrize("name", [*NAMES, "all"])
def test_every_benchmark_takes_its_arguments(name):
    assert settings_of(parse([name])).size == "full"
    assert settings_of(parse([name, "--quick"])).size == "quick"
    tiny = settings_of(parse([name, "--tiny", "--minutes", "5"]))
    assert (tiny.size, tiny.model, tiny.minutes) == ("tiny", "tiny", 5.0)


def test_a_model_folder_and_vllm_are_named_on_the_command_line(tiny_llama):
    given = ["rollouts", "--model", str(tiny_llama), "--vllm-python", "bin/python"]
    settings = settings_of(parse(given))
    assert settings.model == str(tiny_llama)
    assert settings.vllm_python.is_absolute()
    sides = cases_of("rollouts", settings)[0].sides
    assert {"vllm eager", "vllm compiled", "transformers"} <= sides.keys()


def test_the_shapes_that_favour_sharing_least_are_measured_too(tiny_llama):
    cases = cases_of("training", Settings("full", str(tiny_llama)))
    shapes = {tuple(case.about["shape"]) for case in cases}
    assert {(700, 512, 8), (300, 1024, 8), (400, 2048, 8), (500, 150, 8), (1000, 50, 14)} <= shapes
    assert all({"trl", "trl without entropies"} <= case.sides.keys() for case in cases)
    assert any(case.about["lora"] for case in cases)


def test_only_full_sizes_are_published(monkeypatch):
    monkeypatch.setattr("sys.argv", ["benchmarks", "all", "--quick"])
    with pytest.raises(SystemExit, match="--results"):
        main()
    assert RESULTS.is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_runs(name, tmp_path, monkeypatch, capsys):
    path = tmp_path / f"{name}.json"
    monkeypatch.setattr("sys.argv", ["benchmarks", name, "--tiny", "--json", str(path)])
    main()
    result = json.loads(path.read_text())
    for case in result["cases"].values():
        assert len(case["rounds"]) == 2
        assert case["summary"][OURS]["seconds"]["median"] > 0
    assert "mulligan:" in capsys.readouterr().out
