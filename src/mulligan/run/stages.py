"""The stages of a run, in order, over one run folder.

Each stage takes what the ones before it left in the folder, and is done once; a stage that was cut
off goes on where it was.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mulligan.engines.base import require_trainable
from mulligan.engines.registry import find_engine
from mulligan.episodes.conversation import tells_verdict
from mulligan.errors import MulliganError
from mulligan.evaluation.controls import controls_of
from mulligan.evaluation.evaluate import Protocol
from mulligan.evaluation.scores import check_endpoints
from mulligan.interrupt import waiting
from mulligan.objectives.objective import make_objective
from mulligan.randomness import derive_seed
from mulligan.run.out_of_memory import memory_errors
from mulligan.run.probe import probe_once
from mulligan.run.processes import require_divisible
from mulligan.run.reported import reported_problems
from mulligan.run.rounds import (
    collect_first_round,
    lost_model,
    problems_of_all_rounds,
    train_rounds,
)
from mulligan.run.session import Session
from mulligan.run.trained import checkpoints_of, ended_with, last_round, trained_step
from mulligan.run.trials import run_trials
from mulligan.storage.atomic import remove_folder, whole_folder
from mulligan.storage.records import RecordLog
from mulligan.trainer.trackers import require_trackers
from mulligan.types import SftStep


@dataclass(frozen=True)
class Stage:
    """One step on the way from a recipe to a report."""

    name: str
    command: str
    """The command that runs it alone."""
    says: str
    """What it does, in the method's words."""
    run: Callable[[Session], None]
    needs: tuple[str, ...] = ()
    """Stages that must be done before."""
    lost: Callable[[Session], str | None] = lambda session: None
    """Names what the stage made where that has been lost since, so that it is made again."""


def warm_up_stage(session: Session) -> None:
    """Teach the model the form of the task by supervised training, where the recipe has it."""
    from mulligan.trainer.sft import fine_tune
    from mulligan.trainer.update import compute_activations_twice

    recipe, settings = session.recipe, session.recipe.sft
    problems = reported_problems(session) or problems_of_all_rounds(session)
    make_objective(recipe).reward.check(session.task, problems)  # said now, not hours later
    session.problems(recipe.evaluate.split, recipe.evaluate.problems)
    if recipe.looks_at_dev:
        session.problems("dev", recipe.evaluate.dev_problems)
    controls_of(recipe.evaluate)  # so are controls and endpoints that do not exist
    check_endpoints(recipe.evaluate.endpoints)
    if settings is None:
        return
    if tells_verdict(recipe.prompts.reflect):
        raise MulliganError(
            "prompts.reflect tells the model what the verifier said, and the demonstrations of a "
            "warm-up have no verdicts. Leave {reason} and {detail} out of it, or leave `sft` out."
        )
    model, tokenizer = session.load(recipe.model, to_train=True)
    policy = session.policy(model)
    if recipe.train.gradient_checkpointing:
        compute_activations_twice(policy.model)
    seed = derive_seed(recipe.seed_of("sft"), "demonstrations")
    with waiting(f"making {settings.examples} demonstrations"):
        demonstrations = list(session.task.demonstrations(settings.examples, seed))
    with (
        session.progress("warm-up", -(-len(demonstrations) // settings.batch)) as advance,
        RecordLog(session.run.warmup_log, SftStep, lambda line: str(line.step)) as log,
    ):

        def report(line: SftStep) -> None:
            log.append(line)
            advance(1, f"loss {line.loss:.3f}")
            session.stop.check(f"warm-up step {line.step}; a warm-up starts again on resume")

        fine_tune(
            policy.model,
            session.conversations(model, tokenizer),
            demonstrations,
            settings,
            seed=recipe.seed_of("sft"),
            dtype=recipe.dtype,
            first_step_learns=recipe.first_step_learns,
            tokens_at_once=recipe.train.tokens_at_once,
            report=report,
            pack=recipe.groups_share_a_pass,
        )
    remove_folder(session.run.warmed_up)
    with waiting("saving the warmed-up model"), whole_folder(session.run.warmed_up) as folder:
        policy.finished().save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def evaluate_before_stage(session: Session) -> None:
    """Measure first try, second try and controls before training."""
    _evaluate(session, "before", session.start_model)


def evaluate_after_stage(session: Session) -> None:
    """Measure the same after training, on the same problems and seeds."""
    folder = last_round(session.run, session.recipe)
    _evaluate(session, "after", ended_with(folder, session.recipe))
    checkpoints_of(folder, session.recipe).mark_best(trained_step(folder, session.recipe))


def _evaluate(session: Session, when: str, model_name: str | Path) -> None:
    recipe = session.recipe
    model, tokenizer = session.load(model_name)
    engine, untrained = session.engine(model, tokenizer), None
    conversations = session.conversations(model, tokenizer, engine)
    problems = session.those_that_fit(
        session.problems(recipe.evaluate.split, recipe.evaluate.problems), conversations
    )
    protocol = Protocol.of(recipe, problems)
    if when == "after" and any(control.needs_untrained for control in protocol.controls):
        untrained = session.engine(*session.load(session.start_model), beside=True)
    said = f"{when} training"
    run_trials(session, engine, conversations, protocol, when, said, untrained)


def report_stage(session: Session) -> None:
    """Write the page that a person reads."""
    from mulligan.report.page import write_report

    with waiting("writing the report"):
        write_report(session.run.path)


STAGES = (
    Stage(
        "warmup",
        "warmup",
        "Teach the model the form of the task by supervised training.",
        warm_up_stage,
    ),
    Stage(
        "collect",
        "collect",
        "Let the model try; keep what it fails.",
        collect_first_round,
        needs=("warmup",),
    ),
    Stage(
        "evaluate-before",
        "evaluate",
        "Measure first try, second try and controls before training.",
        evaluate_before_stage,
        needs=("warmup",),
    ),
    Stage(
        "train",
        "train",
        "Reflect, retry, reward.",
        train_rounds,
        needs=("collect",),
        lost=lost_model,
    ),
    Stage(
        "evaluate-after",
        "evaluate",
        "Measure the same again after training.",
        evaluate_after_stage,
        needs=("train",),
    ),
    Stage(
        "report",
        "report",
        "Write the page that a person reads.",
        report_stage,
        needs=("evaluate-before",),
    ),
)


def run_stages(session: Session, names: Sequence[str]) -> None:
    """Run some stages in order; those that are already done are skipped.

    Before failures are collected for a training that follows, a probe says what to expect. What a
    stage needs and a stage before it made is made again where it was lost. The report is
    written anew each time: it costs little, and shows what is there.

    Raises:
        MulliganError: a stage that one of them needs is not done, or the recipe's engine cannot
            serve training that is asked for, or not that of several processes, or a tracker is not
            installed.
    """
    if "train" in names:  # said now, not after the hours that collecting may take
        kind = session.recipe.engine.kind
        require_trainable(kind, find_engine(kind).abilities)
        require_trackers(session.recipe.track)
        require_divisible(session.recipe)
    for stage in (each for each in STAGES if each.name in names):
        if stage.name != "report" and session.is_done(stage.name):
            session.console.print(f"{stage.name}: already done")
            continue
        for needed in (each for each in STAGES if each.name in stage.needs):
            if not session.is_done(needed.name):
                raise MulliganError(
                    f"Stage {stage.name!r} needs {needed.name!r} first: "
                    f"run `mulligan {needed.command} {session.run.path}`."
                )
            if lost := needed.lost(session):
                session.console.print(f"{lost} is missing or damaged: running {needed.name} first.")
                _run(needed, session)
                _refuse_if_still_lost(needed, session)
        if stage.name == "collect" and "train" in names:  # the long work begins here
            with memory_errors("probe"):
                probe_once(session)
            session.release_engine()
        _run(stage, session)


def _refuse_if_still_lost(stage: Stage, session: Session) -> None:
    if lost := stage.lost(session):
        raise MulliganError(
            f"{lost} is missing or damaged, and what was saved later cannot restore it. "
            f"Delete {session.run.checkpoints} and go on with --resume: training starts again, and "
            "ends the same."
        )


def _run(stage: Stage, session: Session) -> None:
    with memory_errors(stage.name):
        stage.run(session)
    session.release_engine()
    if not session.is_done(stage.name):
        session.mark_done(stage.name)
