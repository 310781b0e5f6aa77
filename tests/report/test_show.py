import pytest
from rich.console import Console

from mulligan.errors import MulliganError
from mulligan.report.show import show_episodes
from mulligan.storage.run_folder import RunFolder
from tiny import lines, run_cli


def shown(run, count):
    console = Console(width=200, record=True, quiet=False, file=None, force_terminal=False)
    with console.capture() as captured:
        show_episodes(RunFolder(run), count, console)
    return captured.get()


def test_the_newest_episodes_are_shown_with_all_that_was_said(tiny_run):
    text = shown(tiny_run, 2)
    assert text.count("question") == text.count("reflection") == text.count("retry") == 2
    last = lines(tiny_run / "episodes.jsonl")[-1]
    assert f"step 4, reward {last['reward']:.0f}, advantage {last['advantage']:+.2f}" in text
    assert "train-" in text


def test_more_episodes_than_there_are_shows_them_all(tiny_run):
    assert shown(tiny_run, 1000).count("reflection") == len(lines(tiny_run / "episodes.jsonl"))


def test_what_a_model_wrote_cannot_move_the_cursor_or_pass_for_markup(tiny_run):
    text = shown(tiny_run, 1000)
    assert not [c for c in text if ord(c) < 32 and c != "\n"]


def test_a_run_without_episodes_says_when_they_come(tmp_path):
    with pytest.raises(MulliganError, match="no episodes yet; they come with training"):
        shown(tmp_path, 1)


def test_the_command_shows_as_many_as_asked(tiny_run):
    assert run_cli("show", tiny_run, "-n", "1").out.count("reflection") == 1
    assert run_cli("show", tiny_run).out.count("reflection") == 3
