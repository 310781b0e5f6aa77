"""The file of episodes: written by the trainer, read from its end by whoever shows some."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BeforeValidator

from mulligan.storage.records import RecordLog, newest_records
from mulligan.types import TrainedEpisode


def open_episodes(path: Path) -> RecordLog[TrainedEpisode]:
    """Open the file to append to; use as a context manager.

    Raises:
        MulliganError: a line that is not an episode, or an id that occurs twice.
    """
    return RecordLog(path, _LINE, lambda record: record.id)


def newest_episodes(path: Path, count: int) -> list[TrainedEpisode]:
    """Return the last episodes, in order; nothing before them is read.

    Raises:
        MulliganError: one of them cannot be read.
    """
    return newest_records(path, _LINE, count)


def _present_form(line: Any) -> Any:
    """Bring a line of version 0.1.0, which kept whole completions, into the form of today."""
    if not isinstance(line, Mapping) or not isinstance(line.get("episode"), Mapping):
        return line
    episode = {**line["episode"]}
    for name in ("reflection", "retry"):
        said = episode.get(name)
        if isinstance(said, Mapping) and isinstance(said.get("token_ids"), list):
            episode[name] = {
                "text": said.get("text"),
                "tokens": len(said["token_ids"]),
                "finish_reason": said.get("finish_reason"),
            }
    rest = {name: value for name, value in line.items() if name != "episode"}
    return {**rest, **episode}


_LINE = cast(type[TrainedEpisode], Annotated[TrainedEpisode, BeforeValidator(_present_form)])
