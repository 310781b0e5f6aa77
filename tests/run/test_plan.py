import json

from tiny import run_cli, write_recipe


def test_a_plan_says_what_each_stage_needs_and_that_it_fits(tiny_llama, tmp_path):
    outcome = run_cli("plan", write_recipe(tmp_path, tiny_llama))
    assert outcome.code == 0, outcome.err
    for word in ("collect", "train", "evaluate", "weights", "optimiser", "fits"):
        assert word in outcome.out


def test_a_plan_that_does_not_fit_names_settings_and_exits_with_one(tiny_llama, tmp_path):
    outcome = run_cli("plan", write_recipe(tmp_path, tiny_llama), "--gib", "0.001")
    assert outcome.code == 1
    assert "does not fit" in outcome.out
    assert "try lora=" in outcome.out


def test_an_adapter_is_planned_without_weights(tiny_llama, tmp_path):
    recipe = write_recipe(tmp_path, tiny_llama, lora={"rank": 2, "alpha": 4})
    made = json.loads(run_cli("plan", recipe, "--json").out)
    # A and B of rank 2 for q, k, v, o, gate, up and down of two layers, 32 and 48 wide
    sizes = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 48), (32, 48), (48, 32)]
    assert made["trained"] == 2 * sum(2 * (a + b) for a, b in sizes)
    assert made["trained"] < made["parameters"]
