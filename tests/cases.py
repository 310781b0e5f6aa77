"""The twelve cases that a run has to survive, and the tests that make each one really happen.

A run of the whole suite checks the index: every test in it has to have run, and the summary names
those that were skipped on this machine, with the reason.
"""

import ast
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

CASES = {
    1: (  # SIGKILL at any moment of a save
        "storage/test_checkpoint.py::test_killed_saves_leave_whole_checkpoints_and_the_same_end",
        "storage/test_atomic.py::test_a_killed_writer_leaves_the_old_content_or_the_new_one",
        "test_faults.py::test_twenty_kills_leave_runs_that_end_as_if_nothing_had_happened",
    ),
    2: (  # SIGKILL in the middle of a line
        "storage/test_records.py::test_killed_writers_lose_no_acknowledged_record_and_write_none_twice",
        "storage/test_records.py::test_a_file_cut_off_at_any_byte_keeps_every_whole_record_and_takes_the_rest_again",
        "storage/test_records.py::test_a_torn_tail_is_said_and_stays_on_the_disk_until_something_is_appended",
        "test_faults.py::test_twenty_kills_leave_runs_that_end_as_if_nothing_had_happened",
    ),
    3: (  # disk full or read-only, no permission, too little memory
        "test_reliability.py::test_a_run_on_a_full_disk_ends_with_its_name_and_goes_on_once_there_is_space",
        "test_reliability.py::test_a_run_on_a_read_only_disk_ends_with_its_name",
        "test_reliability.py::test_memory_that_is_refused_is_named_with_what_to_lower",
        "test_cli.py::test_a_folder_that_cannot_be_written_is_refused",
        "storage/test_checkpoint.py::test_a_full_disk_leaves_the_old_checkpoint_and_no_half_one",
        "storage/test_records.py::test_a_full_disk_loses_no_acknowledged_record_and_leaves_no_half_line",
    ),
    4: (  # kill and resume in mid-epoch
        "test_faults.py::test_twenty_kills_leave_runs_that_end_as_if_nothing_had_happened",
        "trainer/test_loop.py::test_a_run_that_died_between_checkpoints_repeats_the_lost_steps_the_same",
        "trainer/test_state.py::test_a_restored_run_goes_on_bit_for_bit",
        "test_reliability.py::test_ctrl_c_in_any_stage_leaves_a_run_that_ends_the_same",
    ),
    5: (  # a verifier that hangs, segfaults, exits, eats memory
        "verifiers/test_pool.py::test_a_fault_is_an_error_that_says_what_happened_and_hurts_no_other_answer",
        "verifiers/test_pool.py::test_a_verifier_that_hangs_is_killed_at_its_deadline",
        "verifiers/test_judging.py::test_above_the_share_the_run_stops_with_the_commonest_error",
        "test_reliability.py::test_a_verifier_that_hangs_dies_or_exits_never_makes_an_answer_wrong",
        "test_cli.py::test_a_verifier_that_keeps_breaking_stops_the_run",
    ),
    6: (  # a verifier that returns nonsense; numbers that are not numbers
        "verifiers/test_pool.py::test_a_fault_is_an_error_that_says_what_happened_and_hurts_no_other_answer",
        "trainer/test_loop.py::test_a_step_whose_gradient_is_not_finite_is_skipped_and_counted",
        "trainer/test_loop.py::test_too_many_skipped_steps_stop_the_run_and_leave_the_weights",
        "test_reliability.py::test_a_skipped_step_is_said_and_counted",
        "trainer/test_optimizer.py::test_a_gradient_that_is_not_finite_under_a_finite_loss_leaves_the_weights_too",
        "test_reliability.py::test_a_group_takes_one_reward_and_one_advantage_for_each_episode",
    ),
    7: (  # hostile expressions
        "tasks/countdown/test_task.py::test_a_hostile_string_is_no_equation_within_100_ms",
        "tasks/countdown/test_task.py::test_no_long_text_takes_100_ms",
        "tasks/countdown/test_task.py::test_ten_thousand_fuzzed_strings_never_raise",
        "tasks/countdown/test_arithmetic.py::test_anything_outside_the_allow_list_is_refused",
    ),
    8: (  # odd completions and groups
        "test_reliability.py::test_reflections_that_are_empty_or_cut_off_are_episodes_like_others",
        "test_reliability.py::test_a_group_of_one_is_refused_by_the_recipe",
        "trainer/test_loop.py::test_a_step_whose_groups_are_all_dead_changes_nothing_and_a_run_of_them_says_so",
        "test_cli.py::test_a_prompt_longer_than_the_context_is_refused",
        "engines/local/test_engine.py::test_a_completion_ends_with_its_stop_token_or_at_its_limit",
        "objectives/test_advantages.py::test_equal_rewards_give_exact_zeros",
    ),
    9: (  # a template that rewrites history
        "episodes/test_conversation.py::test_a_template_that_rewrites_earlier_turns_is_found_out_and_said_once",
        "engines/local/test_engine.py::test_a_prompt_that_only_begins_like_a_known_one_is_computed_from_where_they_part",
    ),
    10: (  # a server in trouble
        "engines/test_server.py::test_passing_trouble_is_tried_again_and_the_group_is_whole",
        "engines/test_server.py::test_trouble_that_stays_is_an_error_after_the_last_try",
        "engines/test_server.py::test_one_prompt_that_fails_fails_the_call_rather_than_giving_a_partial_answer",
        "test_reliability.py::test_no_part_of_a_group_is_trained_on",
    ),
    11: (  # hostile model output
        "report/test_browser.py::test_a_report_of_hostile_text_makes_no_request_and_runs_no_script",
        "report/test_page.py::test_hostile_text_stays_text_everywhere_on_the_page",
        "report/test_markup.py::test_ten_thousand_fuzzed_strings_are_text_and_nothing_else",
        "test_reliability.py::test_terminal_escapes_of_a_model_are_shown_as_text",
        "test_reliability.py::test_terminal_escapes_in_an_error_are_shown_as_text",
    ),
    12: (  # keys, paths, pickles
        "test_reliability.py::test_a_planted_key_is_found_nowhere_in_a_run",
        "engines/test_server.py::test_the_key_reaches_the_server_and_nothing_else",
        "test_reliability.py::test_a_name_that_leaves_the_folder_of_runs_is_refused",
        "storage/test_records.py::test_an_id_with_dots_and_slashes_stays_text",
        "storage/test_checkpoint.py::test_a_manifest_that_names_a_file_outside_is_refused",
        "test_reliability.py::test_a_pickle_in_a_checkpoint_stops_the_run",
    ),
}
"""Case of the twelve to the tests that make it happen."""


def is_slow(name: str) -> bool:
    """Whether a test is slow as a whole: by its own mark, or by that of its file.

    Raises:
        LookupError: there is no such test, or it is defined twice.
    """
    file, _, test = name.partition("::")
    tree = ast.parse((TESTS / file).read_text())
    named = [e for e in tree.body if isinstance(e, ast.FunctionDef) and e.name == test]
    if len(named) != 1:
        raise LookupError(f"{len(named)} tests are called {name}, and there should be one")
    of_file = [ast.walk(e.value) for e in tree.body if isinstance(e, ast.Assign) and marks(e)]
    every = [*named[0].decorator_list, *itertools.chain.from_iterable(of_file)]
    return "pytest.mark.slow" in map(ast.unparse, every)


def marks(assignment: ast.Assign) -> bool:
    """Whether an assignment gives the marks of a whole file."""
    return [ast.unparse(target) for target in assignment.targets] == ["pytestmark"]


def not_run(passed: Iterable[str], skipped: Mapping[str, str], *, slow_too: bool) -> list[str]:
    """Return the tests of the index that neither passed nor were skipped, with their case.

    Args:
        passed: the ids of the tests that passed, parameters included.
        skipped: the ids of those that were skipped, with the reason.
        slow_too: whether slow tests had to run.
    """
    ran = {plain(each) for each in (*passed, *skipped)}
    return [
        f"case {case}: {name}"
        for case, names in CASES.items()
        for name in names
        if name not in ran and (slow_too or not is_slow(name))
    ]


def plain(node: str) -> str:
    """Return a test's id as the index has it: from the folder of tests on, without parameters."""
    return node.removeprefix("tests/").partition("[")[0]


class CaseCheck:
    """Watches a run of the whole suite: fails it where a test of the index has not run."""

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self.skipped: dict[str, str] = {}
        self.missing: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.passed and report.when == "call":
            self.passed.add(report.nodeid)
        if report.skipped and isinstance(report.longrepr, tuple):
            self.skipped[report.nodeid] = report.longrepr[2]

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK:
            slow_too = "slow or not slow" in session.config.option.markexpr
            self.missing = not_run(self.passed, self.skipped, slow_too=slow_too)
            if self.missing:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for each in self.missing:
            terminalreporter.write_line(f"NOT RUN, {each}", red=True)
        indexed = {name for names in CASES.values() for name in names}
        for node, reason in self.skipped.items():
            if plain(node) in indexed:
                terminalreporter.write_line(f"not shown here, {node}: {reason}", yellow=True)


def watch_whole_runs(config: pytest.Config) -> None:
    """Check the index where the whole suite runs; parts of it, and xdist's workers, are let be."""
    whole = config.args_source == pytest.Config.ArgsSource.TESTPATHS
    option = config.option
    partial = option.keyword or option.collectonly or getattr(option, "lf", False)
    if whole and not partial and not hasattr(config, "workerinput"):
        config.pluginmanager.register(CaseCheck(), "cases")
