import json

from mulligan.evaluation.controls import CONTROLS
from tiny import run_cli, write_recipe


def test_every_control_of_a_run_appears_in_its_table_page_and_json(tiny_llama, tmp_path):
    recipe = write_recipe(
        tmp_path,
        tiny_llama,
        warmup=None,
        train__steps=1,
        evaluate__problems=16,
        evaluate__greedy=True,
        evaluate__constant="Check it.",
        evaluate__controls=[control.name for control in CONTROLS],
    )
    outcome = run_cli("run", recipe, "--runs", tmp_path)
    assert outcome.code == 0, outcome.err
    made = json.loads(run_cli("report", tmp_path / "tiny", "--json").out)
    columns = {(cell["column"], cell["when"]) for cell in made["cells"]}
    page = (tmp_path / "tiny" / "report.html").read_text()
    for control in CONTROLS:
        assert (control.column, "after") in columns
        assert ((control.column, "before") in columns) is not control.needs_untrained
        assert control.title in outcome.out
        assert control.title in page
    assert {("greedy", "before"), ("greedy", "after")} <= columns
