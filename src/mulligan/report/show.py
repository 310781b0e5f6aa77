"""Episodes in the terminal: what was asked, what failed, what the model said, what came of it."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from mulligan.episodes.conversation import question
from mulligan.episodes.failures import find_failures
from mulligan.errors import MulliganError
from mulligan.report.markup import visible
from mulligan.storage.episode_log import newest_episodes
from mulligan.storage.run_folder import RunFolder
from mulligan.types import Completion, Failure, TrainedEpisode, Written


def show_episodes(run: RunFolder, count: int, console: Console) -> None:
    """Print the newest episodes that a run was trained on.

    Raises:
        MulliganError: the run has none yet.
    """
    records = newest_episodes(run.newest_round.episodes, count)
    if not records:
        raise MulliganError(f"{run.path} has no episodes yet; they come with training.")
    failures = find_failures(run.newest_round.failures, {record.failure_id for record in records})
    for record in records:
        console.print(_panel(record, failures, run.path))


def _panel(record: TrainedEpisode, failures: Mapping[str, Failure], run: Path) -> Panel:
    """Print one episode; what the model wrote is plain text, whatever it contains."""
    failure = failures.get(record.failure_id)
    if failure is None:
        raise MulliganError(f"{run} trained on failure {record.failure_id}, which is not stored.")
    attempt = failure.attempt
    lines = [
        _line("question", question(attempt.problem), "bold"),
        *_thoughts(attempt.completion),
        _line("answer", attempt.completion.text, "red", attempt.verdict.reason),
    ]
    if record.reflection:
        lines += _thoughts(record.reflection)
        lines.append(_line("reflection", record.reflection.text, "cyan"))
    if record.retry and record.verdict:
        outcome = "green" if record.verdict.passed else "red"
        lines += _thoughts(record.retry)
        lines.append(_line("retry", record.retry.text, outcome, record.verdict.reason))
    title = f"step {record.step}, reward {record.reward:.3g}, advantage {record.advantage:+.2f}"
    return Panel(Group(*lines), title=title, title_align="left")


def _thoughts(completion: Completion | Written) -> list[Text]:
    return [_line("thoughts", completion.thoughts, "dim")] if completion.thoughts else []


def _line(label: str, text: str, style: str, note: str = "") -> Text:
    line = Text(f"{label:>10}  ", style="dim")
    line.append(visible(text), style=style)
    if note:
        line.append(f"  [{note}]", style="dim")
    return line
