import json
from dataclasses import replace

import pytest
from benchmarks.__main__ import NAMES, RESULTS, cases_of, main, parse, settings_of
from benchmarks.cases import OURS, Settings
from benchmarks.growth import Point
from benchmarks.growth_side import Step
from benchmarks.training_side import step_of

from mulligan.models.load import load_model
from mulligan.types import SftStep
from tiny import make_model_folder

SIZES = ("full", "quick", "tiny")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model with room for whole conversations."""
    folder = tmp_path_factory.mktemp("models") / "long"
    return str(make_model_folder(folder, max_position_embeddings=4096))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_has_cases_in_which_ours_takes_part(name, size):
    cases = cases_of(name, Settings(size))
    assert cases
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    assert all(OURS in case.sides for case in cases)
    json.dumps([dict(case.about) for case in cases])


@pytest.mark.parametrize("name", ["rollouts", "step", "evaluation", "sft"])
def test_ours_takes_a_turn_in_every_case(name, model):
    for case in cases_of(name, Settings("tiny", model)):
        with case.sides[OURS]() as play:
            turn = play(0)
        assert turn.seconds > 0
        assert turn.tokens is None or turn.tokens > 0
        assert turn.flops is None or turn.flops > 0


def test_the_step_in_which_the_warm_up_checks_itself_is_not_counted(model, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("benchmarks.sft.time.perf_counter", lambda: clock[0])

    def two_steps(*_, report, **__):
        for number, seconds in ((1, 100.0), (2, 3.0)):
            clock[0] += seconds
            report(SftStep(number, loss=1.0, gradient_norm=1.0, tokens=10 * number))

    monkeypatch.setattr("benchmarks.sft.fine_tune", two_steps)
    [case] = cases_of("sft", Settings("tiny", model))
    with case.sides[OURS]() as play:
        turn = play(0)

    assert (turn.seconds, turn.tokens, turn.details) == (3.0, 20, {"steps": 1})


@pytest.mark.parametrize(("lora", "checkpointing"), [(False, False), (True, False), (False, True)])
def test_ours_computes_a_batch_and_leaves_the_weights_alone(model, lora, checkpointing):
    options = {"folder": model, "shape": [6, 4, 4], "groups": 2}
    options |= {"lora": lora, "checkpointing": checkpointing}
    loaded, _ = load_model(model)
    before = {name: each.clone() for name, each in loaded.named_parameters()}
    step_of(OURS, loaded, options)()
    after = dict(loaded.named_parameters())
    assert all((after[name] == each).all() for name, each in before.items() if name in after)
    assert any("lora" in name for name in after) == lora


def test_a_step_of_the_growth_benchmark_counts_what_it_does(model):
    point = Point(prompt=6, completion=4, group_size=2, failures=3, model=model)
    taken = Step(point).take(0)
    assert taken["tokens"] == 3 * 2 * 4
    assert taken["seconds"] == pytest.approx(
        taken["details"]["rollout_seconds"] + taken["details"]["update_seconds"]
    )
    larger = Step(replace(point, failures=6)).take(0)
    assert larger["flops"] == pytest.approx(2 * taken["flops"])


@pytest.mark.parametrize("name", [*NAMES, "all"])
def test_every_benchmark_takes_its_arguments(name):
    assert settings_of(parse([name])).size == "full"
    assert settings_of(parse([name, "--quick"])).size == "quick"
    tiny = settings_of(parse([name, "--tiny", "--minutes", "5"]))
    assert (tiny.size, tiny.model, tiny.minutes) == ("tiny", "tiny", 5.0)


def test_a_model_folder_and_vllm_are_named_on_the_command_line(model):
    given = ["rollouts", "--model", model, "--vllm-python", "bin/python"]
    settings = settings_of(parse(given))
    assert settings.model == model
    assert settings.vllm_python.is_absolute()
    sides = cases_of("rollouts", settings)[0].sides
    assert {"vllm eager", "vllm compiled", "transformers"} <= sides.keys()


def test_the_shapes_that_favour_sharing_least_are_measured_too():
    cases = cases_of("training", Settings("full"))
    shapes = {tuple(case.about["shape"]) for case in cases}
    assert {(700, 512, 8), (300, 1024, 8), (400, 2048, 8), (500, 150, 8), (1000, 50, 14)} <= shapes
    assert all({"trl", "trl without entropies"} <= case.sides.keys() for case in cases)
    assert any(case.about["lora"] for case in cases)
    assert any(case.about["groups"] > 1 for case in cases)


def test_only_full_sizes_are_published(monkeypatch):
    monkeypatch.setattr("sys.argv", ["benchmarks", "all", "--quick"])
    with pytest.raises(SystemExit, match="--results"):
        main()
    assert RESULTS.is_dir()


def test_without_a_gpu_its_benchmark_measures_nothing_and_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["benchmarks", "gpu", "--results", str(tmp_path)])
    main()
    assert "no GPU" in capsys.readouterr().out
    assert not (tmp_path / "gpu.json").exists()
    assert "no GPU was at hand" in (tmp_path / "performance.md").read_text()


@pytest.mark.gpu
def test_a_gpu_makes_the_pages_table(tmp_path, monkeypatch):
    given = ["benchmarks", "gpu", "--quick", "--results", str(tmp_path)]
    monkeypatch.setattr("sys.argv", given)
    main()
    page = (tmp_path / "performance.md").read_text()
    assert "| step, 0.5B | Mulligan |" in page
    assert "no GPU was at hand" not in page


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_makes_every_result_figure_and_table(tmp_path, monkeypatch):
    given = ["benchmarks", "all", "--tiny", "--results", str(tmp_path)]
    monkeypatch.setattr("sys.argv", given)
    main()
    figures = {path.name for path in tmp_path.glob("*.svg")}
    assert figures == {"ratios.svg", "growth_prompt.svg", "growth_processes.svg"}
    assert {path.stem for path in tmp_path.glob("*.json")} == set(NAMES)
    for name in NAMES:
        for case in json.loads((tmp_path / f"{name}.json").read_bytes())["cases"].values():
            assert len(case["rounds"]) == 2
            assert case["summary"][OURS]["seconds"]["median"] > 0
    assert "Not measured" not in (tmp_path / "performance.md").read_text()
