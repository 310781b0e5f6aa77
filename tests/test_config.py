from copy import deepcopy

import pytest
import yaml
from pydantic import ValidationError

from mulligan.config import (
    Evaluate,
    as_yaml,
    change_recipe,
    changed_settings,
    check_recipe,
    load_recipe,
    override_recipe,
)
from mulligan.errors import MulliganError
from tiny import RECIPE, tiny_recipe


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def refusal(settings):
    with pytest.raises(MulliganError) as caught:
        check_recipe(settings, "recipe.yaml")
    return str(caught.value)


def test_a_recipe_is_read_with_the_values_of_the_method_where_it_says_nothing(recipe_file):
    recipe = load_recipe(recipe_file)
    assert recipe.train.steps == 4
    assert recipe.generate.temperature == 0.9
    assert recipe.train.max_grad_norm == 1.0
    assert recipe.train.schedule == "cosine"
    assert recipe.train.loss == "grpo"


def test_the_defaults_of_training_are_those_of_the_paper():
    train = check_recipe(RECIPE | {"train": {"steps": 1}}, "recipe").train
    assert (train.failures_per_step, train.group_size, train.kl_beta) == (256, 8, 0.001)
    assert (train.learning_rate, train.warmup_ratio) == (5e-7, 0.03)


def test_a_recipe_survives_being_saved_and_read_again():
    recipe = tiny_recipe(task_options={"counts": {2: 0.5, 3: 0.5}, "words": "größer"})
    assert check_recipe(yaml.safe_load(as_yaml(recipe)), "saved") == recipe


def test_with_one_round_stored_failures_are_those_of_each_round(recipe_file):
    recipe = load_recipe(recipe_file)
    once = change_recipe(recipe, {"collect.failures": "stored"}, "here")
    twice = change_recipe(recipe, {"collect.failures": "stored", "rounds": 2}, "here")

    assert once == recipe
    assert twice.collect.failures == "stored"


def test_a_recipe_is_frozen():
    with pytest.raises(ValidationError):
        tiny_recipe().seed = 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sed": 3}, "sed: unknown name; did you mean 'seed'?"),
        ({"train": {"step": 3}}, "train.step: unknown name; did you mean 'steps'?"),
        ({"sft": {"exampels": 3}}, "sft.exampels: unknown name; did you mean 'examples'?"),
        ({"generate": {"zzz": 1}}, "generate.zzz: unknown name; valid names: answer_tokens, "),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_valid_one(change, says):
    assert says in refusal(RECIPE | change)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": "seven"}, "seed: Input should be a valid integer"),
        ({"train": {"steps": -1}}, "train.steps: Input should be greater than 0, but got -1"),
        ({"train": {"steps": 1, "group_size": 1}}, "greater than or equal to 2, but got 1"),
        ({"dtype": "int8"}, "'float32' or 'bfloat16', but got 'int8'"),
        ({"collect": 5}, "collect: Input should be a valid dictionary"),
        ({"name": "../elsewhere"}, "name: String should match pattern"),
        ({"generate": RECIPE["generate"] | {"temperature": float("inf")}}, "temperature: Input"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_expected_and_what_came(change, says):
    assert says in refusal(RECIPE | change)


def test_a_missing_section_is_named():
    assert "collect: missing" in refusal({k: v for k, v in RECIPE.items() if k != "collect"})


OLD_NAMES = {
    "warmup": {"examples": 7, "warmup_share": 0.5},
    "train": {"steps": 1, "failures": 5, "warmup_share": 0.25, "clip_gradient": 3.0},
}


def test_names_of_earlier_versions_are_read_and_the_new_ones_said_once(caplog):
    settings = {k: v for k, v in RECIPE.items() if k != "sft"} | OLD_NAMES
    for _ in range(2):
        recipe = check_recipe(settings, "old.yaml")
    assert (recipe.sft.examples, recipe.sft.warmup_ratio) == (7, 0.5)
    train = recipe.train
    assert (train.failures_per_step, train.warmup_ratio, train.max_grad_norm) == (5, 0.25, 3.0)
    assert settings["warmup"] == OLD_NAMES["warmup"]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 5
    assert "old.yaml: `train.failures` is called `train.failures_per_step` now; " in said[2]


@pytest.mark.parametrize(
    ("old", "new"),
    [("warmup", "sft"), ("train.failures", "train.failures_per_step")],
)
def test_a_setting_under_its_old_and_its_new_name_is_refused(old, new):
    section, _, name = old.rpartition(".")
    settings = deepcopy(RECIPE)
    (settings[section] if section else settings)[name or old] = 3
    assert f"gives both `{old}` and `{new}`" in refusal(settings)


def test_an_override_by_an_old_name_overrides_the_new_one(recipe_file):
    overrides = ["train.failures=7", "warmup.warmup_share=0.5", "sft.examples=9"]
    recipe = load_recipe(recipe_file, overrides)
    assert recipe.train.failures_per_step == 7
    assert (recipe.sft.warmup_ratio, recipe.sft.examples) == (0.5, 9)


def test_a_recipe_follows_the_rules_of_the_run_that_it_goes_on_with(recipe_file):
    assert load_recipe(recipe_file).first_step_learns
    old = load_recipe(recipe_file, run_format=1)
    assert not old.first_step_learns
    assert changed_settings(load_recipe(recipe_file), old) == [
        "format: 2 -> 1",
        "train.dead_groups: 'keep' -> 'skip'",
        "train.kl_form: 'k3' -> 'unbiased'",
    ]
    assert "format" not in yaml.safe_load(as_yaml(old))


def test_a_section_without_a_seed_of_its_own_has_that_of_the_run(recipe_file):
    recipe = load_recipe(recipe_file, ["seed=3", "train.seed=0"])
    assert [recipe.seed_of(name) for name in ("sft", "train", "evaluate")] == [3, 0, 3]
    assert load_recipe(recipe_file, ["seed=3", "sft=null"]).seed_of("sft") == 3


def test_settings_are_changed_by_their_dotted_names_old_ones_too(recipe_file):
    changes = {"train.failures": 7, "task_options": {"limit": 3}, "sft": None}
    recipe = change_recipe(load_recipe(recipe_file), changes, "arm 'b'")
    assert recipe.train.failures_per_step == 7
    assert recipe.task_options == {"limit": 3}
    assert recipe.sft is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train.stepz": 3}, r"(?s)arm 'b'.*did you mean 'steps'\?"),
        ({"seed.deeper": 3}, "arm 'b': seed.deeper: 'seed' is a value"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_with_its_source(recipe_file, changes, says):
    recipe = load_recipe(recipe_file, ["seed=1"])
    with pytest.raises(MulliganError, match=says):
        change_recipe(recipe, changes, "arm 'b'")


def test_every_mistake_is_named_at_once():
    said = refusal(RECIPE | {"sed": 1, "dtype": "int8"})
    assert "sed" in said
    assert "dtype" in said


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.learning_rate=1e-6", 1e-6),
        ("train.learning_rate=0.001", 0.001),
        ("train.learning_rate=2", 2.0),
        ("train.steps=40", 40),
        ("train.stop_after=null", None),
        ("train.scale_advantages=false", False),
        ("model=owner/name", "owner/name"),
        ("sft=null", None),
        ("task_options.limit=3", {"limit": 3}),
        ("prompts.reflect=a=b: c", "a=b: c"),
    ],
)
def test_a_setting_is_overridden_by_name(recipe_file, override, value):
    if ": " in override:
        override = f"{override.partition('=')[0]}='{override.partition('=')[2]}'"
    found = load_recipe(recipe_file, [override])
    for part in override.partition("=")[0].split("."):
        if isinstance(found, dict):
            break
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_an_override_makes_a_section_that_the_recipe_leaves_out(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in RECIPE.items() if k != "sft"}))
    assert load_recipe(path).sft is None
    assert load_recipe(path, ["sft.examples=7"]).sft.examples == 7


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.steps", "not of the form name=value"),
        ("=3", "not of the form name=value"),
        ("seed.deeper=3", "'seed' is a value, not a section"),
        ("train.stepz=3", "did you mean 'steps'?"),
        ("train.steps=[1", "is not YAML"),
        ("train.steps=many", "Input should be a valid integer"),
    ],
)
def test_an_override_that_makes_no_sense_is_refused(tmp_path, override, says):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"seed": 1}))
    with pytest.raises(MulliganError, match="(?s)" + says.replace("?", r"\?")):
        load_recipe(path, [override])


def test_settings_of_a_run_are_overridden_the_same_way():
    recipe = tiny_recipe()
    changed = override_recipe(recipe, ["train.stop_after=2"], "run")
    assert changed.train.stop_after == 2
    assert recipe.train.stop_after is None


@pytest.mark.parametrize("content", ["- a\n- b\n", "just words", "a: [1", "\x00", ""])
def test_a_file_that_is_no_mapping_of_settings_is_refused_by_name(tmp_path, content):
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(MulliganError, match=r"broken\.yaml"):
        load_recipe(path)


def test_a_recipe_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(MulliganError, match=r"Cannot read .*none\.yaml"):
        load_recipe(tmp_path / "none.yaml")


def test_changed_settings_are_named_with_both_values():
    before = tiny_recipe()
    after = override_recipe(before, ["train.steps=9", "seed=1", "task_options.words=2"], "new")
    assert changed_settings(before, after) == [
        "seed: 0 -> 1",
        "task_options.words: None -> 2",
        "train.steps: 4 -> 9",
    ]


def test_where_and_how_far_a_run_goes_may_change():
    before = tiny_recipe()
    overrides = ["train.stop_after=2", "device=cuda", "engine.memory_gib=8"]
    assert changed_settings(before, override_recipe(before, overrides, "new")) == []


def test_a_recipe_without_an_engine_generates_locally():
    assert tiny_recipe().engine.kind == "local"


def test_settings_of_an_engine_that_we_do_not_know_stand_under_its_options():
    recipe = override_recipe(tiny_recipe(), ["engine.kind=mine", "engine.options.port=1"], "it")
    assert (recipe.engine.kind, recipe.engine.options) == ("mine", {"port": 1})


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("engine.memory=1", r"engine\.memory: unknown name"),
        ("engine.kind=[1]", r"engine\.kind: "),
        ("engine=7", r"engine: "),
    ],
)
def test_an_error_in_the_engines_section_is_placed_as_the_recipe_writes_it(override, said):
    with pytest.raises(MulliganError, match=said):
        override_recipe(tiny_recipe(), [override], "it")


@pytest.mark.parametrize(
    ("older", "controls"), [(True, ("nothing", "other_reflection")), (False, ())]
)
def test_the_switch_for_controls_of_version_0_1_0_is_read_as_their_names(older, controls):
    assert Evaluate.model_validate({"problems": 3, "controls": older}).controls == controls


def test_an_optimizer_that_cannot_be_divided_is_refused_with_shards():
    with pytest.raises(MulliganError, match="adamw_8bit cannot be divided"):
        override_recipe(tiny_recipe(), ["train.shard=true", "train.optimizer=adamw_8bit"], "it")
