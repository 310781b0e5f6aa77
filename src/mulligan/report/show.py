"""Episodes in the terminal: what was asked, what failed, what the model said, what came of it."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from mulligan.episodes.conversation import question
from mulligan.episodes.failures import FailureStore
from mulligan.errors import MulliganError
from mulligan.report.markup import visible
from mulligan.storage.records import RecordLog
from mulligan.storage.run_folder import RunFolder
from mulligan.types import Completion, Failure, TrainedEpisode


def show_episodes(run: RunFolder, count: int, console: Console) -> None:
    """Print the newest episodes that a run was trained on.

    Raises:
        MulliganError: the run has none yet.
    """
    with (
        RecordLog(run.episodes, TrainedEpisode, lambda record: record.id) as episodes,
        FailureStore(run.failures) as store,
    ):
        if not len(episodes):
            raise MulliganError(f"{run.path} has no episodes yet; they come with training.")
        newest = range(max(0, len(episodes) - count), len(episodes))
        records = [episodes[position] for position in newest]
        wanted = {record.episode.failure_id for record in records}
        failures = {failure.id: failure for failure in store if failure.id in wanted}
    for record in records:
        console.print(_panel(record, failures, run.path))


def _panel(record: TrainedEpisode, failures: Mapping[str, Failure], run: Path) -> Panel:
    """Lay one episode out; what the model wrote is plain text, whatever it contains."""
    episode = record.episode
    failure = failures.get(episode.failure_id)
    if failure is None:
        raise MulliganError(f"{run} trained on failure {episode.failure_id}, which is not stored.")
    attempt = failure.attempt
    outcome = "green" if episode.verdict.passed else "red"
    lines = [
        _line("question", question(attempt.problem), "bold"),
        *_thoughts(attempt.completion),
        _line("answer", attempt.completion.text, "red", attempt.verdict.reason),
        *_thoughts(episode.reflection),
        _line("reflection", episode.reflection.text, "cyan"),
        *_thoughts(episode.retry),
        _line("retry", episode.retry.text, outcome, episode.verdict.reason),
    ]
    title = f"step {record.step}, reward {record.reward:.0f}, advantage {record.advantage:+.2f}"
    return Panel(Group(*lines), title=title, title_align="left")


def _thoughts(completion: Completion) -> list[Text]:
    return [_line("thoughts", completion.thoughts, "dim")] if completion.thoughts else []


def _line(label: str, text: str, style: str, note: str = "") -> Text:
    line = Text(f"{label:>10}  ", style="dim")
    line.append(visible(text), style=style)
    if note:
        line.append(f"  [{note}]", style="dim")
    return line
