"""The whole way: a study of two arms, two seeds and a tiny model."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev

import pytest
from studies import kept, write_study

from findings_page import load_findings
from mulligan.evaluation.scores import SCORES
from mulligan.evaluation.trials import read_trials
from mulligan.run.session import recipe_of
from mulligan.run.trained import trained_model
from mulligan.storage.run_folder import RunFolder
from mulligan.study.published import LETTERS
from tiny import lines, run_cli

T1 = 12.706205  # Student's t, one degree of freedom, 0.975
PARTS = ("reflection", "retry")
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def finished(tiny_llama, tmp_path_factory):
    """A finished study, and what the command said; copy it before changing it."""
    folder = tmp_path_factory.mktemp("study")
    study = write_study(folder, tiny_llama, spread={"first_try": 0.04}, keep_weights=["hot"])
    outcome = run_cli("study", study, "--runs", folder / "runs", "--publish", folder / "published")
    assert outcome.code == 0, outcome.err
    return folder, outcome


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished study that may be changed."""
    shutil.copytree(finished[0], tmp_path / "study")
    return tmp_path / "study"


def again(folder, *options):
    return run_cli("study", folder / "study.yaml", "--runs", folder / "runs", *options)


def table_of(folder):
    return json.loads((folder / "runs" / "tiny_study" / "table.json").read_text())


def estimate(table, arm, outcome, quantity):
    wanted = (arm, outcome, quantity)
    return next(e for e in table["estimates"] if (e["arm"], e["outcome"], e["quantity"]) == wanted)


def changes_by_hand(folder, arm, outcome):
    """A run's change: mean score after training minus before, from its evaluation files."""
    _, score = SCORES[outcome]
    changes = []
    for seed in (1, 2):
        trials = read_trials(folder / "runs" / "tiny_study" / "runs" / f"{arm}-{seed}")
        means = [fmean(score(trial) for trial in trials[when]) for when in ("before", "after")]
        changes.append(means[1] - means[0])
    return changes


def test_what_arms_of_a_seed_share_is_computed_once(finished):
    shared = finished[0] / "runs" / "tiny_study" / "shared"
    stages = sorted(path.name.rpartition("-")[0] for path in shared.iterdir())
    assert stages == sorted(["warmup", "collect", "evaluate-before", "train", "train"] * 2)


def test_a_run_of_a_study_equals_the_same_run_alone(finished, tmp_path, tiny_llama):
    alone = run_cli(
        "run", finished[0] / "recipe.yaml", "seed=2", "train.learning_rate=0.01", "--runs", tmp_path
    )
    assert alone.code == 0, alone.err
    run = finished[0] / "runs" / "tiny_study" / "runs" / "hot-2"
    for name in ("failures.jsonl", "metrics.jsonl", "evaluation/after.jsonl"):
        assert lines(run / name) == lines(tmp_path / "tiny" / name)


@pytest.mark.parametrize("outcome", ["first_try", "after_reflection", "reflection_over_nothing"])
def test_the_pooled_interval_is_that_of_students_t_by_hand(finished, outcome):
    changes = changes_by_hand(finished[0], "base", outcome)
    found = estimate(table_of(finished[0]), "base", outcome, "change")

    half = T1 * stdev(changes) / 2**0.5
    assert found["mean"] == pytest.approx(fmean(changes))
    assert list(found["per_run"].values()) == pytest.approx(changes)
    assert found["low"] == pytest.approx(fmean(changes) - half, abs=1e-5)
    assert found["high"] == pytest.approx(fmean(changes) + half, abs=1e-5)


def test_arms_are_compared_with_the_base_seed_by_seed(finished):
    base, hot = (changes_by_hand(finished[0], arm, "first_try") for arm in ("base", "hot"))
    found = estimate(table_of(finished[0]), "hot", "first_try", "against_base")
    differences = [one - other for one, other in zip(hot, base, strict=True)]
    assert list(found["per_run"].values()) == pytest.approx(differences)


def test_the_smallest_detectable_effect_is_said_before_the_first_run(finished):
    said = " ".join(finished[1].out.split())
    assert said.index("the smallest effect found four times in five is") < said.index("started")


def test_weights_stay_of_the_arms_that_keep_them_and_of_no_other(finished):
    study = finished[0] / "runs" / "tiny_study"
    left = {str(path.relative_to(study)) for path in study.rglob("*.safetensors")}
    assert left == {
        f"runs/hot-{seed}/{model}/model.safetensors"
        for seed in (1, 2)
        for model in ("warmed_up", "checkpoints/step-4")
    }


def test_a_model_that_was_kept_is_whole_although_nothing_can_be_resumed_from_it(finished):
    folder = RunFolder(finished[0] / "runs" / "tiny_study" / "runs" / "hot-2")
    model = trained_model(folder, recipe_of(folder))
    assert model.name == "step-4"
    assert not list(model.glob("training_state*"))


def test_the_table_says_what_each_arm_generated_beside_the_base(finished):
    table = table_of(finished[0])
    tokens = {row["arm"]: [] for row in table["runs"]}
    for row in table["runs"]:
        folder = finished[0] / "runs" / "tiny_study" / "runs" / f"{row['arm']}-{row['seed']}"
        written = [e[k]["tokens"] for e in lines(folder / "episodes.jsonl") for k in PARTS]
        tokens[row["arm"]].append(sum(written))
        tried = lines(folder / "collected.jsonl")
        assert row["collecting_tokens"] == sum(line["tokens"] for line in tried) > 0
    base, hot = table["costs"]
    assert (base["steps"], base["against_base"]) == (4, 1.0)
    assert hot["generated_tokens"] == fmean(tokens["hot"])
    assert hot["against_base"] == pytest.approx(sum(tokens["hot"]) / sum(tokens["base"]))
    assert "Cost of training, hot: 4 steps" in " ".join(finished[1].out.split())


def test_how_errors_change_is_pooled_over_runs_by_reason(finished):
    table = table_of(finished[0])
    row = next(r for r in table["reasons"] if (r["arm"], r["column"]) == ("hot", "first_try"))
    changes = []
    for seed in (1, 2):
        trials = read_trials(finished[0] / "runs" / "tiny_study" / "runs" / f"hot-{seed}")
        shares = [
            fmean(t.first_try.verdict.reason == row["reason"] for t in trials[when])
            for when in ("before", "after")
        ]
        changes.append(shares[1] - shares[0])
    assert row["per_run"] == pytest.approx(changes)
    assert row["after"] - row["before"] == pytest.approx(fmean(changes))
    assert row["low"] <= fmean(changes) <= row["high"]


def test_what_is_published_holds_every_verdict(finished):
    published = finished[0] / "published"
    rows = json.loads((published / "tiny_study.rows.json").read_text())
    trials = read_trials(finished[0] / "runs" / "tiny_study" / "runs" / "hot-2")["after"]
    letters = rows["runs"]["hot-2"]["after"]["first_try"]
    said = {
        problem: tuple(rows["verdicts"][LETTERS.index(letter)])
        for problem, letter in zip(rows["problems"], letters, strict=True)
    }
    verdicts = {t.problem_id: t.first_try.verdict for t in trials}
    assert said == {problem: (v.status, v.reason) for problem, v in verdicts.items()}
    table = json.loads((published / "tiny_study.json").read_text())
    assert table["command"].endswith("/study.yaml")
    assert table["estimates"] == table_of(finished[0])["estimates"]


def test_a_finished_study_runs_nothing_again(copied):
    before = (copied / "runs/tiny_study/table.json").read_bytes()
    outcome = again(copied)
    assert outcome.code == 0
    assert "started" not in outcome.out
    assert (copied / "runs/tiny_study/table.json").read_bytes() == before


def test_the_small_files_alone_give_the_same_table(copied):
    study = copied / "runs" / "tiny_study"
    before = json.loads((study / "table.json").read_text())
    for name in ("runs", "shared"):
        shutil.rmtree(study / name)
    (study / "table.json").unlink()
    outcome = again(copied, "--table", "--json")
    assert json.loads(outcome.out) == json.loads(json.dumps(before))


def test_a_study_whose_runs_are_partly_there_says_how_many(copied):
    for path in (copied / "runs/tiny_study/results").glob("hot-2*"):
        path.unlink()
    outcome = again(copied, "--table")
    assert "hot: 1 of 2 runs" in outcome.out
    assert "Not in the table: hot, seed 2: not run yet" in outcome.out


def test_the_page_names_every_arm_and_run(finished):
    page = (finished[0] / "runs/tiny_study/study.html").read_text()
    for text in ("base, the base: 2 of 2 runs", "hot, seed 2", "What the endpoints say", "<svg"):
        assert text in page


def test_the_page_of_findings_reads_what_a_study_publishes(finished):
    table = json.loads((finished[0] / "published" / "tiny_study.json").read_text())
    page = load_findings()
    changed, compared = page.base_of(table), page.arm_against_base("hot")(table)
    assert (changed.runs, compared.runs) == (2, 2)
    assert changed.answer.startswith("Change by training: what reflection adds ")
    assert "hot against base: what reflection adds " in compared.answer
    assert "4 steps, " in compared.notes[1]
    assert page.errors(table).lines
    assert page.intervals_figure("title", compared.lines).svg.startswith("<svg")


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("results/hot-2.rows.json", '"failed"', '"passed"', "'hot-2' was changed after it ended"),
        ("results/hot-2.json", '"steps": 4', '"steps": 5', "hash differs"),
        ("runs/hot-2/config.yaml", "learning_rate: 0.01", "learning_rate: 0.02", "'hot-2' was"),
        ("runs/hot-2/evaluation/after.jsonl", '"failed"', '"unparseable"', "'hot-2' was changed"),
    ],
)
def test_a_run_that_was_changed_by_hand_is_refused_by_name(copied, file, old, new, says):
    path = copied / "runs" / "tiny_study" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    outcome = again(copied)
    assert outcome.code == 1
    assert says in " ".join(outcome.err.split())
    assert "hot-2" in outcome.err


def test_a_study_that_has_started_cannot_be_changed(copied):
    path = copied / "study.yaml"
    path.write_text(path.read_text().replace("- 2", "- 3"))
    outcome = again(copied)
    assert outcome.code == 1
    assert "give the changed one another name" in " ".join(outcome.err.split())


def test_a_run_that_fails_is_named_and_ends_no_study(tiny_llama, tmp_path):
    # There are not as many failures as the second arm asks for.
    study = write_study(
        tmp_path,
        tiny_llama,
        arms={"base": {}, "hungry": {"train.failures_per_step": 40}},
        in_recipe={"train__steps": 1, "evaluate__problems": 4},
        seeds=[1],
    )
    outcome = run_cli("study", study, "--runs", tmp_path / "runs")
    assert outcome.code == 0, outcome.err
    assert "hungry: 0 of 1 runs" in outcome.out
    assert "Not in the table: hungry, seed 1:" in outcome.out
    assert "base, the base: 1 of 1 runs" in outcome.out


KILLED = """
import os, signal, sys
from mulligan.storage.records import RecordLog
append, count = RecordLog.append, [0]
def killing(log, record):
    written = append(log, record)
    count[0] += log.path.name == "metrics.jsonl"
    if count[0] == 7:  # in the middle of the second run's training
        os.kill(os.getpid(), signal.SIGKILL)
    return written
RecordLog.append = killing
from mulligan.cli import main
main()
"""


def test_a_study_that_was_killed_goes_on_to_the_same_rows(finished, tmp_path, tiny_llama):
    study = write_study(tmp_path, tiny_llama, spread={"first_try": 0.04})
    command = [sys.executable, "-c", KILLED, "study", study, "--runs", tmp_path / "runs"]
    killed = subprocess.run(list(map(str, command)), capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(kept(tmp_path / "runs")) == 1

    assert run_cli("study", study, "--runs", tmp_path / "runs").code == 0
    assert kept(tmp_path / "runs") == kept(finished[0] / "runs")


@pytest.mark.slow
def test_several_processes_make_the_same_rows(finished, tmp_path, tiny_llama):
    study = write_study(tmp_path, tiny_llama, spread={"first_try": 0.04})
    outcome = run_cli("study", study, "--runs", tmp_path / "runs", "--jobs", 2)
    assert outcome.code == 0, outcome.err
    assert kept(tmp_path / "runs") == kept(finished[0] / "runs")


COMMAND = "from mulligan.cli import main; main()"


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path, tiny_llama):
    study = write_study(tmp_path, tiny_llama, in_recipe={"train__steps": 2000})
    command = [sys.executable, "-c", COMMAND, "study", study, "--jobs", 2]
    command += ["--runs", tmp_path / "runs"]
    process = subprocess.Popen(list(map(str, command)), cwd=TESTS)
    trainings = (tmp_path / "runs" / "tiny_study").glob
    wait_until(lambda: list(trainings("shared/train-*/metrics.jsonl")), 240)
    process.kill()
    process.wait()
    sizes = [-1]

    def still():
        sizes.append(sum(path.stat().st_size for path in trainings("shared/train-*/*.jsonl")))
        return sizes[-1] == sizes[-2]

    wait_until(still, 20)


def wait_until(true, seconds):
    import time

    for _ in range(int(seconds / 0.5)):
        if true():
            return
        time.sleep(0.5)
    pytest.fail(f"nothing came of it in {seconds} seconds")
