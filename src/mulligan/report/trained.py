"""What was trained on: groups from the start, the middle and the end of training, token by token.

All tokens of a text that learns have the same advantage; its sign and size colour the text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mulligan.episodes.conversation import question
from mulligan.episodes.failures import find_failures
from mulligan.report.markup import Html, element, together
from mulligan.report.texts import badge, said
from mulligan.storage.episode_log import open_episodes
from mulligan.storage.records import RecordLog
from mulligan.storage.run_folder import RunFolder
from mulligan.types import Failure, TrainedEpisode

_STRONGEST = 2.0
"""Advantage at which a colour is at its fullest."""


@dataclass(frozen=True, slots=True)
class TrainedGroup:
    """The episodes of one failure in one step."""

    failure: Failure
    episodes: tuple[TrainedEpisode, ...]

    @property
    def step(self) -> int:
        """The step in which it was trained on."""
        return self.episodes[0].step


def choose_groups(run: RunFolder) -> list[TrainedGroup]:
    """Return a group of the first step, of one in the middle, and of the last.

    In each the first group whose rewards differ, since only such a group teaches anything; the
    first one where there is none.

    Raises:
        MulliganError: an episode or failure cannot be read.
    """
    if not run.episodes.exists():
        return []
    with open_episodes(run.episodes) as log:
        places = sorted({0, len(log) // 2, len(log) - 1}) if len(log) else []
        found = {log[place].step: _group_near(log, place) for place in places}
    wanted = {episodes[0].failure_id for episodes in found.values()}
    failures = find_failures(run.failures, wanted) if run.failures.exists() else {}
    return [
        TrainedGroup(failures[episodes[0].failure_id], episodes)
        for _, episodes in sorted(found.items())
        if episodes[0].failure_id in failures
    ]


def render_groups(groups: Sequence[TrainedGroup], learn: str) -> Html:
    """Return the groups as markup; ``learn`` is the recipe's setting: which texts learn."""
    return together(*(_group(group, learn) for group in groups))


def _group_near(log: RecordLog[TrainedEpisode], place: int) -> tuple[TrainedEpisode, ...]:
    step = log[place].step
    first = place
    while first > 0 and log[first - 1].step == step:
        first -= 1
    by_failure: dict[str, list[TrainedEpisode]] = {}
    for episode in _from(log, first):
        if episode.step != step:
            break
        by_failure.setdefault(episode.failure_id, []).append(episode)
    groups = list(by_failure.values())
    live = [group for group in groups if len({episode.reward for episode in group}) > 1]
    return tuple((live or groups)[0])


def _from(log: RecordLog[TrainedEpisode], place: int) -> Iterator[TrainedEpisode]:
    return (log[at] for at in range(place, len(log)))


def _group(group: TrainedGroup, learn: str) -> Html:
    attempt = group.failure.attempt
    return element(
        "article",
        element("h3", f"Step {group.step}"),
        said(question(attempt.problem), "question"),
        element("h5", "Failed answer ", badge(attempt.verdict)),
        said(attempt.completion.text, "answer not-trained"),
        *(_episode(episode, learn) for episode in group.episodes),
        class_="group",
    )


def _episode(episode: TrainedEpisode, learn: str) -> Html:
    colour = "up" if episode.advantage > 0 else "down" if episode.advantage < 0 else "flat"
    strength = min(abs(episode.advantage) / _STRONGEST, 1.0) * 45
    trained, style = f"weighed {colour}", f"--strength: {strength:.0f}%"

    def text(words: str, learns: bool) -> Html:
        kind = trained if learns else "not-trained"
        return said(words, kind, style=style) if learns else said(words, kind)

    cells = [element("b", f"{episode.advantage:+.2f}".replace("-", "−"))]
    if episode.reflection is not None:
        cells.append(text(episode.reflection.text, learn in ("reflection", "both")))
    if episode.retry is not None and episode.verdict is not None:
        retry = text(episode.retry.text, learn in ("retry", "both", "first_try"))
        cells.append(element("div", retry, badge(episode.verdict)))
    return element("div", *cells, class_="trained")
