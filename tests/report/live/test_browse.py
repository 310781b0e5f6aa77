import json
import tracemalloc

import pytest

from mulligan.errors import MulliganError
from mulligan.report.live import browse as browsing
from mulligan.report.live.browse import PAGE, Wanted, browse, failed_attempt
from mulligan.report.markup import visible
from mulligan.storage.run_folder import RunFolder
from tiny import lines


def line(number, status="failed", reason="wrong", text="why"):
    said = {"text": f"{text} {number}", "tokens": 3, "finish_reason": "stop"}
    return {
        "schema": 1,
        "step": number // 4,
        "failure_id": f"f{number}",
        "sample": 0,
        "reward": float(status == "passed"),
        "advantage": 0.5,
        "reflection": said,
        "retry": said,
        "verdict": {"status": status, "reason": reason, "detail": ""},
    }


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path)
    rows = [line(n, *(("passed", "passed") if n % 10 == 0 else ())) for n in range(95)]
    run.episodes.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def pages(run, source, wanted):
    """All rows, page after page."""
    found, before = [], None
    while True:
        page = browse(run, source, wanted, before)
        assert len(page.rows) <= PAGE
        found += page.rows
        before = page.older
        if before is None:
            return found


def test_pages_go_from_the_newest_to_the_oldest_and_miss_nothing(run):
    found = pages(run, "training", Wanted())

    assert [row["failure"] for row in found] == [f"f{n}" for n in range(94, -1, -1)]
    assert found[0]["reflection"] == "why 94"
    assert found[0]["advantage"] == 0.5


def test_episodes_that_arrive_meanwhile_shift_no_page(run):
    first = browse(run, "training", Wanted())
    with run.episodes.open("a") as file:
        file.write(json.dumps(line(95)) + "\n")

    second = browse(run, "training", Wanted(), first.older)

    assert second.rows[0]["failure"] == "f74"
    assert browse(run, "training", Wanted()).rows[0]["failure"] == "f95"


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (Wanted(status="passed"), 10),
        (Wanted(reason="wrong"), 85),
        (Wanted(text="WHY 9"), 6),  # 9 and 90 to 94
        (Wanted(status="failed", text="why 90"), 0),
        (Wanted(text="why 42 "), 0),
        (Wanted(leaked=True), 0),
    ],
)
def test_filters_keep_what_matches(run, wanted, count):
    assert len(pages(run, "training", wanted)) == count


def test_a_search_that_seldom_matches_stops_and_says_where_it_goes_on(run, monkeypatch):
    monkeypatch.setattr(browsing, "SCANNED", 2000)

    first = browse(run, "training", Wanted(text="why 3"))

    assert first.rows == []
    assert first.older is not None
    assert len(pages(run, "training", Wanted(text="why 3"))) == 11


def test_trials_can_be_filtered_by_whether_the_reflection_leaks(tiny_run):
    run = RunFolder(tiny_run)
    stored = lines(run.evaluation("after"))

    found = pages(run, "after", Wanted())

    assert len(found) == len(stored)
    assert {row["question"] for row in found} == {row["question"] for row in stored}
    leaked = [row for row in stored if row["leaked"]]
    assert len(pages(run, "after", Wanted(leaked=True))) == len(leaked)


def test_the_failed_attempt_of_an_episode_is_found(tiny_run):
    run = RunFolder(tiny_run)
    [row, *_] = browse(run, "training", Wanted()).rows

    found = failed_attempt(run, row["failure"])

    stored = {each["id"]: each for each in lines(run.failures)}[row["failure"]]["attempt"]
    assert found["answer"] == visible(stored["completion"]["text"])
    assert failed_attempt(run, "none") is None


def test_episodes_of_version_0_1_0_are_read_too(tmp_path):
    inner = {
        "failure_id": "f",
        "reflection": {"text": "z", "token_ids": [1]},
        "retry": {"text": "y", "token_ids": [2]},
        "verdict": {"status": "passed", "reason": "passed"},
    }
    old = {"schema": 1, "step": 3, "reward": 1.0, "advantage": 0.7, "episode": inner}
    run = RunFolder(tmp_path)
    run.episodes.write_text(json.dumps(old) + "\n")

    [row] = browse(run, "training", Wanted()).rows

    assert (row["failure"], row["reflection"], row["status"]) == ("f", "z", "passed")


def test_hidden_characters_are_shown_as_signs_and_long_texts_are_cut(tmp_path):
    run = RunFolder(tmp_path)
    rows = [line(0, text="\u202eevil \x1b[31m"), line(1, text="a" * 9000)]
    run.episodes.write_text("".join(json.dumps(row) + "\n" for row in rows))

    long, hidden = browse(run, "training", Wanted()).rows

    assert "\u202e" not in hidden["reflection"]
    assert "\x1b" not in hidden["reflection"]
    assert long["reflection"].endswith("more characters")


def test_a_damaged_line_is_an_error_that_names_the_file(tmp_path):
    run = RunFolder(tmp_path)
    run.episodes.write_text("[1]\n")

    with pytest.raises(MulliganError, match=r"episodes\.jsonl"):
        browse(run, "training", Wanted())


@pytest.mark.slow
def test_memory_does_not_grow_with_a_million_episodes(tmp_path):
    run = RunFolder(tmp_path)
    block = "".join(json.dumps(line(n)) + "\n" for n in range(10_000))
    peaks = []
    for blocks in (1, 99):
        with run.episodes.open("a") as file:
            for _ in range(blocks):
                file.write(block)
        tracemalloc.start()
        assert len(browse(run, "training", Wanted()).rows) == PAGE
        browse(run, "training", Wanted(text="nothing like it"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert run.episodes.stat().st_size > 300e6
    assert peaks[1] < peaks[0] * 1.1
    assert peaks[1] < 16 * 2**20
