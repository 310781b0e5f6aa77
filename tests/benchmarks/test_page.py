import json

import pytest
from benchmarks.__main__ import RESULTS
from benchmarks.cases import FORMAT, OURS, summary
from benchmarks.figures import draw_all
from benchmarks.page import PAGE, filled, write

GIB = 2**30


def result(name, seconds_of_peers, **about):
    """A result of two rounds, in which ours takes a second."""
    turns = {OURS: {"seconds": 1.0}} | {n: {"seconds": s} for n, s in seconds_of_peers.items()}
    rounds = [
        {
            side: {**turn, "tokens": 10, "flops": 1e9, "peak_bytes": GIB}
            for side, turn in turns.items()
        }
    ] * 2
    return {
        "format": FORMAT,
        "benchmark": name,
        "size": "full",
        "model": "somewhere/model",
        "device": "a machine",
        "versions": {"mulligan": "9.9"},
        "matmul_gflops": [100.0],
        "cases": {"one": {"about": about, "rounds": rounds, "summary": summary(rounds, 1e11)}},
    }


@pytest.fixture
def folder(tmp_path):
    for name, peers in (
        ("training", {"trl": 4.0, "trl without entropies": 3.0}),
        ("rollouts", {"transformers": 0.5, "sharing alone": 0.25, "vllm eager": 1.0}),
        ("step", {"trl": 2.0}),
        ("evaluation", {}),
        ("sft", {}),
        ("gpu", {"vllm eager": 1.0}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(result(name, peers)))
    return tmp_path


def test_the_page_holds_what_the_results_beside_it_say():
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page, RESULTS) == page


def test_the_tables_are_made_from_results(folder):
    page = write(folder).read_text()
    assert "| one | 1.0 (1.0 to 1.0) | 1% | 4.0 (4.0 to 4.0) | 4.00 [4.00, 4.00] | 3.0" in page
    assert "| one | its sharing alone | 40.0 (40.0 to 40.0) |" in page
    assert "| supervised warm-up | 10.0 (10.0 to 10.0) | 1% |" in page
    assert "mulligan 9.9" in page
    assert "a machine, model model" in page


def test_the_worst_case_stands_beside_the_best(folder):
    page = write(folder).read_text()
    assert "The worst case is rollouts, one: transformers: 0.50 [0.50, 0.50]." in page
    assert "The best is training, one: trl: 4.00 [4.00, 4.00]." in page
    assert "Slower than a peer: rollouts, one: transformers." in page
    assert "Neither faster nor slower for certain: rollouts, one: vllm eager." in page


def test_only_where_every_interval_is_above_one_is_no_case_called_slower(folder):
    (folder / "rollouts.json").write_text(json.dumps(result("rollouts", {"vllm eager": 2.0})))

    assert "No case is slower than a peer." in write(folder).read_text()


def test_what_was_not_measured_is_said_to_be_so(folder):
    (folder / "gpu.json").unlink()
    page = write(folder).read_text()
    assert "no GPU was at hand" in page.partition("measured: gpu")[2].partition("<!-- end")[0]
    growth = page.partition("measured: growth")[2].partition("<!-- end")[0]
    assert "Not measured with this version yet" in growth


def test_a_result_that_was_cut_off_shows_the_cases_that_are_whole(folder):
    path = folder / "step.json"
    values = json.loads(path.read_text())
    values["cases"]["two"] = {"about": {}, "rounds": []}
    path.write_text(json.dumps(values))
    page = write(folder).read_text()
    step = page.partition("measured: step")[2].partition("<!-- end")[0]
    assert "| one |" in step
    assert "two" not in step


def test_figures_are_drawn_of_what_there_is(folder):
    assert [path.name for path in draw_all(folder)] == ["ratios.svg"]
    drawn = (folder / "ratios.svg").read_bytes()
    draw_all(folder)
    assert (folder / "ratios.svg").read_bytes() == drawn
    assert draw_all(folder / "nothing") == []
