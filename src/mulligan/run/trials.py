"""An evaluation within a run: its trials go into the run's folder, with a bar and a way to stop."""

from pathlib import Path

from mulligan.engines.base import Engine
from mulligan.episodes.conversation import Conversations
from mulligan.evaluation.evaluate import Protocol, evaluate
from mulligan.evaluation.trials import open_trials
from mulligan.run.session import Session


def run_trials(
    session: Session,
    engine: Engine,
    conversations: Conversations,
    protocol: Protocol,
    when: str,
    said: str,
    untrained: Engine | None = None,
    path: Path | None = None,
) -> None:
    """Append the trials of a protocol to those of the run, where they are not there yet.

    Args:
        session: of the run.
        engine: who answers.
        conversations: how the model is asked.
        protocol: what is evaluated.
        when: names the trials, such as ``before``.
        said: which trials these are, for a person who stops it.
        untrained: the model before training, where a control needs it.
        path: the file of trials; by default that of the run's evaluations called ``when``.

    Raises:
        StoppedEarly: asked to stop; what is done is saved.
    """
    total = len(protocol.problems) * protocol.settings.samples
    with (
        session.progress(f"evaluate {when}", total) as advance,
        open_trials(path or session.run.evaluation(when)) as log,
    ):
        others = len(log) - sum(trial.when == when for trial in log)

        def progress(done: int) -> None:
            advance(done)
            session.stop.check(f"{len(log) - others} of {total} trials {said}")

        evaluate(
            engine,
            conversations,
            session.verify,
            session.verifier.leaks_many,
            protocol,
            when,
            log,
            progress,
            untrained,
        )
