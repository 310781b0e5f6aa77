"""The records of a step: its metrics, its timing, its episodes."""

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import fmean
from typing import Self

from mulligan.storage.episode_log import open_episodes
from mulligan.storage.records import RecordLog
from mulligan.storage.run_folder import RunFolder
from mulligan.trainer.optimizer import Update
from mulligan.trainer.rollouts import Rollout
from mulligan.trainer.update import TokenSums
from mulligan.types import ScoredGroup, StepMetrics, StepTiming, TrainedEpisode


class StepRecords:
    """The three files of records that training writes, open together.

    Args:
        run: the folder that they are in.
        writes: whether this process writes them, of several that train together.
    """

    def __init__(self, run: RunFolder, writes: bool) -> None:
        self._run = run
        self._writes = writes
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        run, enter = self._run, self._stack.enter_context
        self._metrics = enter(RecordLog(run.metrics, StepMetrics, _step))
        self._timings = enter(RecordLog(run.timings, StepTiming, _step))
        self._episodes = enter(open_episodes(run.episodes))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def append(
        self, metrics: StepMetrics, timing: StepTiming, episodes: Sequence[TrainedEpisode]
    ) -> None:
        """Write a step down; one that a resumed run repeats is there once."""
        if not self._writes:
            return
        for episode in episodes:
            self._episodes.append(episode)
        self._metrics.append(metrics)
        self._timings.append(timing)

    def sync(self) -> None:
        """Make sure that everything so far outlives a power cut."""
        if self._writes:
            for records in (self._metrics, self._timings, self._episodes):
                records.sync()

    def any_group_taught(self) -> bool:
        """Whether any step of the run had a group to learn from."""
        return any(line.live_groups for line in self._metrics)


def trained_episodes(step: int, scored: Sequence[ScoredGroup]) -> list[TrainedEpisode]:
    """Return the records of a step's episodes."""
    return [
        TrainedEpisode.of(step, episode, reward, advantage)
        for each in scored
        for episode, reward, advantage in zip(
            each.group.episodes, each.rewards_G, each.advantages_G, strict=True
        )
    ]


def step_metrics(
    step: int, rollout: Rollout, group_size: int, update: Update, sums: TokenSums
) -> StepMetrics:
    """Sum a step up."""
    scored = rollout.scored
    episodes = [episode for each in scored for episode in each.group.episodes]
    live = sum(each.teaches for each in scored)
    thought = [episode.reflection for episode in episodes if episode.reflection is not None]
    judged = [episode.verdict.passed for episode in episodes if episode.verdict is not None]
    return StepMetrics(
        step=step,
        reward=_mean([reward for each in scored for reward in each.rewards_G]),
        reflection_tokens=_mean([len(each.token_ids) for each in thought]),
        truncated=_mean([float(each.finish_reason == "length") for each in thought]),
        live_groups=live,
        dead_groups=len(scored) - live,
        unjudged=rollout.sampled * group_size - len(episodes),
        loss=update.loss if update.applied else None,
        kl=sums.kl / max(sums.tokens, 1),
        gradient_norm=update.gradient_norm if update.applied else None,
        learning_rate=update.learning_rate,
        logprob_mismatch=_mismatch(sums),
        skipped=not update.applied,
        passed=_mean([float(passed) for passed in judged]) if judged else None,
        clipped=sums.clipped / max(sums.tokens, 1),
        capped=sums.capped / max(sums.tokens, 1),
        refills=rollout.refills,
        distinct=len({each.text for each in thought}) / len(thought) if thought else None,
    )


def _mismatch(sums: TokenSums) -> float | None:
    if sums.tokens and not sums.compared:
        return None
    return sums.mismatch / max(sums.compared, 1)


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


def _step(record: StepMetrics | StepTiming) -> str:
    return str(record.step)
