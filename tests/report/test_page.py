import re
import shutil
from dataclasses import replace

import pytest
import yaml
from hostile import hostile_texts, make_hostile_run, with_texts
from html_reader import Reader
from synthetic_run import SETTINGS, make_trials, write_lines, write_trials

from mulligan.errors import MulliganError
from mulligan.evaluation.results import compute
from mulligan.report import episodes
from mulligan.report.inputs import read_run
from mulligan.report.layout import POLICY
from mulligan.report.markup import visible
from mulligan.report.page import render, write_report
from mulligan.report.sheets import points
from mulligan.report.table import table
from mulligan.report.texts import LONGEST
from mulligan.types import Answer, Verdict


def page_text(run):
    return Reader(write_report(run).read_text(encoding="utf-8")).text


def test_the_page_shows_every_number_of_the_table(finished_run, finished_page):
    text = Reader(finished_page).text
    made = table(finished_run)

    for cell in made.cells:
        assert f"{100 * cell.rate:.1f}%" in text
        assert f"{100 * cell.low:.1f} to {100 * cell.high:.1f}" in text
        assert f"{cell.passed} of {cell.n}" in text
    for row in (*made.differences, *made.controls):
        assert f"{points(row.low)} to {points(row.high)}" in text
    for leak in made.leak_rates:
        assert f"{100 * leak.rate:.1f}%" in text


def test_the_page_is_one_file_that_may_load_nothing(finished_page):
    read = Reader(finished_page)

    metas = [attributes for tag, attributes in read.tags if tag == "meta"]
    assert {"http-equiv": "Content-Security-Policy", "content": POLICY} in metas
    assert "default-src 'none'" in POLICY
    loading = {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image"}
    assert not loading & {tag for tag, _ in read.tags}
    assert "@import" not in finished_page
    assert not re.search(r"https?://", finished_page)
    assert all(match == "#" for match in re.findall(r"url\((.)", finished_page))


def test_every_figure_says_in_words_what_it_shows(finished_page):
    tags = Reader(finished_page).tags

    labels = [a["aria-label"] for _, a in tags if a.get("role") == "img"]
    assert len(labels) == 10
    assert any("Solved" in label and "First try before training 3" in label for label in labels)
    assert any(label.startswith("Mean reward") for label in labels)
    assert any(label.startswith("Length of a reflection") for label in labels)
    assert any("missed target" in label for label in labels)


def test_what_was_trained_on_is_shown_from_start_middle_and_end_in_the_colour_of_its_advantage(
    finished_page,
):
    text = Reader(finished_page).text.partition("What was trained on")[2]

    for step in (1, 31, 60):
        assert f"Step {step}: I should check my result." in text
    assert "−1.50" in text
    assert "+0.50" in text
    assert 'class="said weighed down" dir="auto" style="--strength: 34%"' in finished_page
    assert 'class="said weighed up" dir="auto" style="--strength: 11%"' in finished_page
    assert "weighed flat" not in finished_page


def test_texts_that_do_not_learn_are_grey(run):
    learns_retries = {**SETTINGS, "train": {**SETTINGS["train"], "learn": "retry"}}
    (run / "config.yaml").write_text(yaml.safe_dump(learns_retries))
    write_report(run)
    page = (run / "report.html").read_text()

    assert re.search(r'class="said not-trained" dir="auto">Step 1:', page)
    assert re.search(r'class="said weighed up"[^>]*>2 \* 3', page)


def test_no_id_occurs_twice_and_every_reference_has_its_target(finished_page):
    ids = re.findall(r'\bid="([^"]*)"', finished_page)

    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', finished_page)) <= {
        pair for name in ids for pair in ((name, ""), ("", name))
    }


def test_the_same_run_gives_the_same_bytes(run):
    first = write_report(run).read_bytes()

    assert write_report(run).read_bytes() == first


def test_the_commands_of_the_page_need_no_file_but_the_runs_own(finished_run, finished_page):
    text, folder = Reader(finished_page).text, f"runs/{finished_run.name}"

    assert f"mulligan run {folder}/config.yaml name=again" in text
    assert set(re.findall(r"mulligan \w+ (\S+)", text)) <= {folder, f"{folder}/config.yaml"}


def test_the_warm_up_is_named_in_the_open(finished_page):
    assert "first warmed up by supervised training" in Reader(finished_page).text


def test_a_run_without_warm_up_says_so(run):
    (run / "warmup.jsonl").unlink()
    settings = {key: value for key, value in SETTINGS.items() if key != "sft"}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    text = page_text(run)

    assert "This run has no warm-up" in text
    assert "warmed up" not in text


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("evaluation/after.jsonl", "There is no evaluation after training yet"),
        ("evaluation", "This run has no evaluation yet"),
        ("metrics.jsonl", "No training step is recorded yet"),
        ("failures.jsonl", "60 steps on 0 stored failures"),
        ("episodes.jsonl", "No episode that was trained on is stored here"),
        ("timings.jsonl", "60 steps on 612 stored failures"),
        ("warmup.jsonl", "first warmed up by supervised training"),
    ],
)
def test_a_part_that_is_missing_is_said_and_the_rest_is_shown(run, missing, said):
    path = run / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()

    assert said in page_text(run)


def test_a_run_that_has_just_begun_has_a_page(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(SETTINGS))

    assert "Nothing was evaluated yet" in page_text(tmp_path)


def test_metrics_without_some_keys_or_numbers_are_drawn_without_them(run):
    rows = [{"step": 1, "reward": 0.5}, {"step": 2, "reward": float("nan")}, {"step": 3}]
    write_lines(run / "metrics.jsonl", rows)

    text = page_text(run)
    assert "Mean reward" in text
    assert "Norm of the gradient" not in text


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(MulliganError, match=r"is not a run's folder.*config\.yaml"):
        write_report(tmp_path)


def test_episodes_are_drawn_by_seed_from_all_that_failed_at_first(finished_run):
    trials = read_run(finished_run).trials
    choice = episodes.choose(trials, seed=0)

    assert len(choice.pairs) == episodes.SHOWN
    for before, after in choice.pairs:
        assert (before.problem_id, before.sample) == (after.problem_id, after.sample)
        assert (before.when, after.when) == ("before", "after")
        assert not before.first_try.verdict.passed
        assert not after.first_try.verdict.passed
    assert episodes.choose(trials, seed=0) == choice
    assert episodes.choose(trials, seed=1).pairs != choice.pairs


def test_the_choice_of_episodes_does_not_look_at_the_retry(finished_run):
    trials = read_run(finished_run).trials
    everything = episodes.choose(trials, seed=0, count=10**6)
    passes = [pair[1].after_reflection.verdict.passed for pair in everything.pairs]

    assert everything.eligible == len(everything.pairs) == len(passes)
    assert everything.passed[1] == sum(passes)
    assert 0 < sum(passes) < len(passes)


def test_an_empty_reflection_and_a_cut_off_answer_are_said(run):
    trials = [
        replace(trial, reflection="", first_try=replace(trial.first_try, finish_reason="length"))
        for trial in make_trials("before", 30)
        if not trial.first_try.verdict.passed
    ]
    write_trials(run, trials)
    text = page_text(run)

    assert "(nothing)" in text
    assert "cut off" in text


def test_hostile_text_stays_text_everywhere_on_the_page(tmp_path):
    texts = hostile_texts()
    run = make_hostile_run(tmp_path / "<img src=x>", texts)
    read = Reader(write_report(run).read_text(encoding="utf-8"))

    tags = [tag for tag, _ in read.tags]
    assert not {"script", "img", "iframe", "link", "base", "image", "a"} & set(tags)
    assert tags.count("style") == 1
    names = {name for _, attributes in read.tags for name in attributes}
    assert not any(name.startswith("on") for name in names)
    episodes_text = read.text.partition("Episodes")[2].partition("Stages and settings")[0]
    for text in texts:
        assert visible(text)[:LONGEST] in episodes_text
    assert "18,000 more characters" in read.text


def test_lone_surrogates_do_not_stop_the_page(run):
    content = read_run(run)
    trial = with_texts(make_trials("before", 1)[0], ["torn \ud83d apart"] * 6)
    trials = {"before": (trial,), "after": (replace(trial, when="after"),)}

    page = render(replace(content, trials=trials, table=compute(trials), name="\udcff"))

    assert "torn ⟦U+D83D⟧ apart" in page
    page.encode("utf-8")


def test_more_reasons_than_colours_are_drawn_together(run):
    reasons = [Verdict.wrong(f"reason_{number}_$x$") for number in range(40)]
    trials = [
        replace(trial, first_try=Answer("?", verdict, 3, "stop"))
        for trial, verdict in zip(make_trials("before", 40), reasons, strict=True)
    ]
    write_trials(run, trials)
    text = page_text(run)

    assert "wrong: reason 0 $x$" in text
    assert "wrong: all others" in text
