"""The folder that holds everything about one experiment, and the name of each thing in it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where each part of a run is."""

    path: Path

    @property
    def config(self) -> Path:
        """The recipe as resolved, with versions and seed."""
        return self.path / "config.yaml"

    @property
    def stages(self) -> Path:
        """Which stages are done."""
        return self.path / "stages.json"

    @property
    def warmed_up(self) -> Path:
        """The model after the supervised warm-up, as a folder that transformers loads."""
        return self.path / "warmed_up"

    @property
    def warmup_log(self) -> Path:
        """One line per step of the warm-up."""
        return self.path / "warmup.jsonl"

    @property
    def failures(self) -> Path:
        """The failure store."""
        return self.path / "failures.jsonl"

    @property
    def collected(self) -> Path:
        """What became of the attempts: one line per chunk of problems."""
        return self.path / "collected.jsonl"

    @property
    def metrics(self) -> Path:
        """One line per training step; nothing in it depends on the clock."""
        return self.path / "metrics.jsonl"

    @property
    def timings(self) -> Path:
        """How long each training step took, kept apart because no two runs agree on it."""
        return self.path / "timings.jsonl"

    @property
    def tracked(self) -> Path:
        """The run's name among a tracker's runs, and the last step that each tracker was sent."""
        return self.path / "tracked.json"

    @property
    def episodes(self) -> Path:
        """Every episode trained on."""
        return self.path / "episodes.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folders ``step-N``."""
        return self.path / "checkpoints"

    @property
    def dev(self) -> Path:
        """Evaluations on the dev split while training goes on: one line per trial."""
        return self.path / "dev.jsonl"

    @property
    def rounds(self) -> Path:
        """A folder for each of several rounds, which is laid out as that of a run of one round."""
        return self.path / "rounds"

    def round(self, number: int) -> "RunFolder":
        """Return the folder of one of several rounds."""
        return RunFolder(self.rounds / str(number))

    @property
    def rounds_begun(self) -> "list[RunFolder]":
        """The folders of the rounds so far, in order: the run's own where it has one round."""
        begun = sorted(int(path.name) for path in self.rounds.glob("[0-9]*"))
        return [self.round(number) for number in begun] or [self]

    @property
    def newest_round(self) -> "RunFolder":
        """The folder of the last round that was begun."""
        return self.rounds_begun[-1]

    @property
    def round_trials(self) -> Path:
        """Evaluations on dev before the first round and after each: one line per trial."""
        return self.path / "rounds.jsonl"

    @property
    def model(self) -> Path:
        """The model that a round ended with, where it is no checkpoint of its training."""
        return self.path / "model"

    @property
    def found(self) -> Path:
        """Answers that passed when the policy was consolidated, with their tokens."""
        return self.path / "found.jsonl"

    @property
    def searched(self) -> Path:
        """How they were found, a line for each chunk of problems."""
        return self.path / "searched.jsonl"

    @property
    def consolidation(self) -> Path:
        """One line per optimiser step of the consolidation."""
        return self.path / "consolidation.jsonl"

    @property
    def store_drift(self) -> Path:
        """How many stored failures the policy would pass, measured with each evaluation on dev.

        Several rounds have one in the run's own folder too, with a measurement after each.
        """
        return self.path / "store_drift.jsonl"

    def evaluation(self, when: str) -> Path:
        """One line per trial, ``before`` or ``after`` training."""
        return self.path / "evaluation" / f"{when}.jsonl"

    def examined(self, question: str) -> Path:
        """What the run said to a question of ``mulligan examine``."""
        return self.path / "examined" / f"{question}.json"

    @property
    def forgetting(self) -> Path:
        """What the run's model forgot."""
        return self.path / "forgetting.json"

    @property
    def forgetting_items(self) -> Path:
        """One line per item of other tasks: which checkpoints got it right."""
        return self.path / "forgetting.jsonl"

    @property
    def forgetting_begun(self) -> Path:
        """The items of each task that are answered, while the others are being measured."""
        return self.path / "forgetting"

    @property
    def report(self) -> Path:
        """The page that a person reads."""
        return self.path / "report.html"
