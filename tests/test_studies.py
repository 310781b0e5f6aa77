import json
import shutil
from pathlib import Path

import pytest

from mulligan.objectives.objective import make_objective
from mulligan.study.acceptance import NAMES
from mulligan.study.outcomes import outcomes_of
from mulligan.study.plan import plan
from tiny import run_cli

ROOT = Path(__file__).parent.parent
STUDIES = sorted((ROOT / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_resolves_to_runs_with_an_objective(path):
    made = plan(path)
    assert made.name == path.stem
    for run in made.runs:
        make_objective(run.recipe)


def test_the_acceptance_evaluates_what_its_record_needs():
    made = plan(next(path for path in STUDIES if path.stem == "demo_seeds"))
    assert set(NAMES.values()) <= set(outcomes_of(made.runs[0].recipe))
    assert len(made.seeds) == 10


def test_tuning_reads_the_dev_split_alone():
    for name in ("demo_tuning", "demo_noise", "findings_constant", "rounds_tuning"):
        made = plan(next(path for path in STUDIES if path.stem == name))
        assert {run.recipe.evaluate.split for run in made.runs} == {"dev"}


def test_the_ways_to_evaluate_share_the_training_that_they_look_at():
    made = plan(next(path for path in STUDIES if path.stem == "findings_evaluation"))
    seed = made.runs[0].seed
    trainings = {run.arm: run.shared["train"] for run in made.runs if run.seed == seed}
    assert len({trainings[arm] for arm in ("verdict", "t0", "t03", "t06", "t12")}) == 1
    assert trainings["thinks_first"] != trainings["verdict"]


def test_the_study_of_consolidation_compares_what_its_claim_names_on_the_same_problems():
    made = plan(next(path for path in STUDIES if path.stem == "rounds"))
    assert len(made.seeds) == 8
    arms = {run.arm: run.recipe for run in made.runs}
    assert made.study.base == "consolidated"
    assert {name: arms[name].consolidate.search for name in ("consolidated", "fresh")} == {
        "consolidated": "reflection",
        "fresh": "fresh",
    }
    assert arms["asked_again"].consolidate.search == "nothing"
    assert arms["first_try"].train.learn == "first_try"
    assert arms["method"].consolidate is None
    assert arms["more_warm_up"].sft.examples > arms["method"].sft.examples
    assert len({(each.collect, each.evaluate) for each in arms.values()}) == 1
    assert set(NAMES.values()) <= set(outcomes_of(arms["consolidated"]))


@pytest.mark.slow
def test_the_published_record_of_ten_seeds_follows_from_the_published_verdicts(tmp_path):
    published = ROOT / "docs" / "results"
    shutil.copytree(published / "demo_seeds", tmp_path / "demo_seeds" / "results")
    made = tmp_path / "record.json"
    study = ROOT / "studies" / "demo_seeds.yaml"
    outcome = run_cli("study", study, "--table", "--runs", tmp_path, "--accept", made)

    assert outcome.code == 0, outcome.err
    record, again = (json.loads(file.read_text()) for file in (published / "demo_seeds.json", made))
    assert record | {"command": ""} == again | {"command": ""}
