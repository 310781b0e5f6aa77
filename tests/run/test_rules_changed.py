"""A run is never judged by other rules than it was started with."""

import pytest
import yaml

from mulligan.errors import MulliganError
from mulligan.tasks.base import refuse_older_rules
from mulligan.tasks.countdown.task import Countdown
from mulligan.tasks.function_calling.xlam import Xlam
from tiny import RECIPE, run_cli

WHAT_CHANGED = "an answer has to be one equation and nothing else"


def test_an_unfinished_run_of_format_1_on_countdown_is_refused_naming_what_changed(tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    made_with = {"format": 1, "mulligan": "0.1.0"}
    recipe = {**RECIPE, "task": "countdown", "made_with": made_with}
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe))
    outcome = run_cli("collect", folder)
    assert outcome.code == 1
    assert "This run has format 1" in outcome.err
    assert WHAT_CHANGED in " ".join(outcome.err.split())


def test_a_new_run_and_a_task_whose_rules_are_the_same_go_on(tmp_path):
    refuse_older_rules(Countdown(), 2)
    refuse_older_rules(Xlam(rows="rows.jsonl"), 1)
    with pytest.raises(MulliganError, match=WHAT_CHANGED):
        refuse_older_rules(Countdown(), 1)
