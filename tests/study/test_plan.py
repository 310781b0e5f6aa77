import pytest
import yaml
from studies import write_study

from mulligan.config import load_recipe
from mulligan.errors import MulliganError
from mulligan.study.jobs import jobs_of
from mulligan.study.plan import SHARED, plan
from mulligan.study.seeds import derived_seeds, recipe_digest
from tiny import TASK_FILE, run_cli

ARMS = ("more", "less")


@pytest.fixture
def planned(tmp_path):
    """Plans the tiny study with some changes."""

    def make(**changes):
        return plan(write_study(tmp_path, **changes))

    return make


def shared(plan, arm, seed="1"):
    return next(run.shared for run in plan.runs if (run.arm, run.seed) == (arm, seed))


def which_differ(plan, arm):
    base, other = shared(plan, plan.study.base), shared(plan, arm)
    return {stage for stage in SHARED if base[stage] != other[stage]}


@pytest.mark.parametrize(
    ("changes", "computed_anew"),
    [
        ({"train.learning_rate": 0.01}, {"train"}),
        ({"train.failures_per_step": 2}, {"train"}),
        ({"train.tokens_at_once": 99, "train.steps": 3}, {"warmup", "train"}),
        ({"sft.examples": 4}, set(SHARED)),
        ({"collect.problems": 10}, {"collect", "train"}),
        ({"evaluate.problems": 5}, {"evaluate-before"}),
        ({"generate.temperature": 0.5}, {"collect", "evaluate-before", "train"}),
        ({"sft.seed": 7}, set(SHARED)),
        ({"sft.seed": 1, "evaluate.greedy": True}, {"evaluate-before"}),
        ({"train.seed": 7}, {"train"}),
        ({"evaluate.seed": 7}, {"evaluate-before"}),
        ({"prompts.reflect": "Why?"}, set(SHARED)),
    ],
)
def test_a_stage_is_shared_unless_a_setting_that_it_depends_on_differs(
    planned, changes, computed_anew
):
    made = planned(arms={"base": {}, "other": changes})
    assert which_differ(made, "other") == computed_anew


def test_a_training_that_looks_at_dev_depends_on_how_it_does(planned):
    arms = {"base": {}, "other": {"evaluate.dev_problems": 3}, "reseeded": {"evaluate.seed": 7}}
    made = planned(arms=arms, settings={"evaluate.every": 2})
    assert which_differ(made, "other") == {"evaluate-before", "train"}
    assert which_differ(made, "reseeded") == {"evaluate-before", "train"}


def test_arms_that_differ_in_their_evaluation_alone_share_one_training(planned):
    changes = {"evaluate.temperature": 0.0, "evaluate.controls": ["nothing"]}
    made = planned(arms={"base": {}, "cold": changes})
    assert which_differ(made, "cold") == {"evaluate-before"}


def test_an_arm_can_be_a_multiple_of_the_recipe(planned):
    made = planned(
        arms={
            "base": {},
            "more": {"train.failures_per_step": {"times": 2.75}, "train.steps": {"times": 10}},
            "less": {"train.learning_rate": {"times": 0.5}, "train.steps": {"times": 0.1}},
        },
        settings={"train.steps": {"times": 2}},
    )
    more, less = (next(r.recipe.train for r in made.runs if r.arm == arm) for arm in ARMS)
    # The tiny recipe has 4 steps of 3 failures, at 1e-3.
    assert (more.failures_per_step, more.steps) == (8, 80)
    assert (less.learning_rate, less.steps) == (5e-4, 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train.schedule": {"times": 2}}, "needs a number in the recipe to start from"),
        ({"train.patience": {"times": 2}}, "there it is None"),
        ({"train.steps": {"times": -1}}, "times should be a number above 0, not -1"),
        ({"train.steps": {"times": "two"}}, "times should be a number above 0, not 'two'"),
    ],
)
def test_a_multiple_of_nothing_is_refused(planned, change, says):
    with pytest.raises(MulliganError, match=says):
        planned(arms={"base": {}, "other": change})


def test_weights_can_only_be_kept_of_an_arm_that_there_is(planned):
    with pytest.raises(MulliganError, match="there is no arm 'bass'; did you mean 'base'"):
        planned(keep_weights=["bass"])


def test_seeds_share_no_stage(planned):
    made = planned()
    assert not set(shared(made, "base", "1").values()) & set(shared(made, "base", "2").values())


def test_the_base_arm_is_run_with_all_its_seeds_before_the_others(planned):
    runs = [job.run.id for job in jobs_of(planned()) if job.run]

    assert runs == ["base-1", "base-2", "hot-1", "hot-2"]


def test_crossed_trainings_share_their_warm_up_and_what_follows_from_it(planned):
    made = planned(arms={"base": {}}, seeds={"cross": {"sft.seed": [1, 2], "train.seed": [3, 4]}})
    assert [run.id for run in made.runs] == [
        "base-sft.seed_1-train.seed_3",
        "base-sft.seed_1-train.seed_4",
        "base-sft.seed_2-train.seed_3",
        "base-sft.seed_2-train.seed_4",
    ]
    first, second, third, _ = (run.shared for run in made.runs)
    assert {stage for stage in SHARED if first[stage] != second[stage]} == {"train"}
    assert first["warmup"] != third["warmup"]
    assert made.crossed == {"sft.seed": [1, 1, 2, 2], "train.seed": [3, 4, 3, 4]}


def test_one_training_serves_every_seed_of_evaluation(planned):
    made = planned(
        arms={"base": {}}, seeds={"cross": {"train.seed": [3, 4], "evaluate.seed": [5, 6]}}
    )
    assert len({run.shared["train"] for run in made.runs}) == 2
    assert len({run.key for run in made.runs}) == 4


def test_the_task_file_is_part_of_the_address(tmp_path, monkeypatch):
    task = tmp_path / "task.py"
    task.write_text(TASK_FILE.read_text())
    study = write_study(tmp_path, in_recipe={"task": str(task)})
    before = plan(study)
    task.write_text(task.read_text() + "\n# another line\n")
    after = plan(study)
    assert shared(before, "base") != shared(after, "base")
    assert before.runs[0].key != after.runs[0].key


def test_the_model_folder_is_part_of_the_address(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(b"one")
    study = write_study(tmp_path, model)
    before = plan(study)
    (model / "weights").write_bytes(b"two")
    assert shared(before, "base") != shared(plan(study), "base")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arms": {"base": {}, "b": {"train.stepz": 3}}}, r"arm 'b'.*did you mean 'steps'\?"),
        ({"settings": {"sed": 3}}, "settings is not a valid recipe.*did you mean 'seed'"),
        ({"seedz": [1]}, r"seedz: unknown name; did you mean 'seeds'\?"),
        ({"seeds": [1, 2, 1]}, "seeds: given twice: 1"),
        ({"seeds": {"cross": {"sft.seed": [1, 1], "train.seed": [2, 3]}}}, "sft.seed: given twice"),
        ({"seeds": []}, "seeds"),
        ({"arms": {}}, "arms"),
        ({"arms": {"a": {}, "b": {"train.steps": 4}}}, "arms 'a' and 'b' are the same recipe"),
        ({"arms": {"a": {}, "b": {"seed": 4}}}, "arm 'b' sets 'seed', which the study's seeds"),
        ({"arms": {"a-b": {}}}, "arms"),
        ({"spread": {"frist_try": 0.1}}, r"no outcome 'frist_try'; did you mean 'first_try'\?"),
        (
            {"arms": {"a": {}, "b": {"evaluate.controls": []}}},
            "'reflection_over_nothing' needs 'after_nothing', which arm 'b' does not evaluate",
        ),
        ({"recipe": "missing.yaml"}, "missing.yaml"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused_before_any_work(planned, changes, says):
    with pytest.raises(MulliganError, match=f"(?s){says}"):
        planned(**changes)


def test_an_arm_that_stands_twice_is_refused_rather_than_lost(tmp_path):
    path = write_study(tmp_path)
    path.write_text(path.read_text().replace("seeds:", "  hot: {train.steps: 2}\nseeds:"))
    with pytest.raises(MulliganError, match="hot given twice"):
        plan(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluate.problems": 10**6},
        {"rounds": 10**6},
        {"evaluate.every": 1, "evaluate.dev_problems": 10**6},
    ],
)
def test_more_problems_than_there_are_is_said_before_any_work_with_its_arm(tmp_path, changes):
    arms = {"base": {}, "large": changes}
    outcome = run_cli("study", write_study(tmp_path, arms=arms), "--runs", tmp_path / "runs")
    assert outcome.code == 1
    assert "Arm 'large', seed 1:" in " ".join(outcome.err.split())
    assert not (tmp_path / "runs").exists()


def test_derived_seeds_follow_from_what_the_recipe_says_and_not_from_its_name(tmp_path):
    path = write_study(tmp_path, seeds={"derive": 5, "from": "recipe"}).with_name("recipe.yaml")
    digest = recipe_digest(load_recipe(path))
    for saying_nothing in ("name=other", "seed=5", "train.stop_after=1", "train.steps=4"):
        assert recipe_digest(load_recipe(path, [saying_nothing])) == digest
    assert recipe_digest(load_recipe(path, ["train.steps=5"])) != digest
    assert list(plan(path.with_name("study.yaml")).seeds) == list(
        map(str, derived_seeds(digest, 5))
    )


def test_the_command_prints_the_seeds_that_a_study_derives(tmp_path):
    path = write_study(tmp_path, seeds={"derive": 4, "from": "recipe"}).with_name("recipe.yaml")
    printed = run_cli("seeds", path, "--count", 4).out.split()
    assert printed == list(plan(path.with_name("study.yaml")).seeds)
    assert printed != run_cli("seeds", path, "--count", 4, "--attempt", 2).out.split()


def test_seeds_derived_from_a_study_depend_on_its_arms(planned):
    first = planned(seeds={"derive": 3, "from": "study"})
    second = planned(
        seeds={"derive": 3, "from": "study"}, arms={"base": {}, "hot": {"train.steps": 9}}
    )
    assert list(first.seeds) != list(second.seeds)


def test_derived_seeds_are_distinct_and_a_longer_list_begins_with_the_shorter():
    seeds = derived_seeds("a hash", 500)
    assert len(set(seeds)) == 500
    assert derived_seeds("a hash", 10) == seeds[:10]
    assert all(0 <= seed < 10**6 for seed in seeds)


def test_a_study_is_yaml_that_people_write():
    text = "arms: {base: , more: {sft.examples: 1360}}"
    assert yaml.safe_load(text)["arms"]["base"] is None
