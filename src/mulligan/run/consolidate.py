"""Consolidation of a round: the trained policy searches its problems, and learns what passed."""

import logging
from collections.abc import Sequence

from mulligan.config import Consolidate
from mulligan.engines.base import require_token_ids
from mulligan.episodes.failures import FailureStore
from mulligan.episodes.found import Found, Search, open_found, open_searched, search
from mulligan.randomness import derive_seed
from mulligan.run.session import Session
from mulligan.run.trained import checkpoints_of, trained_step
from mulligan.storage.atomic import remove_folder, whole_folder
from mulligan.storage.records import RecordLog
from mulligan.types import ConsolidationStep, Problem

logger = logging.getLogger("mulligan")


def consolidate_policy(session: Session, settings: Consolidate) -> None:
    """Write the consolidated model of a round, from the last checkpoint of its training.

    What was found before a kill is kept; the training on it is short, and starts again.
    """
    found = _search(session, settings)
    _train(session, settings, found)


def _problems(session: Session) -> list[Problem]:
    """Return what is tried: the round's problems, or those of a store of failures."""
    if session.recipe.collect.store is None:
        return session.training_problems()
    with FailureStore(session.run.failures) as store:
        problems = {each.attempt.problem.id: each.attempt.problem for each in store}
    return list(problems.values())


def _search(session: Session, settings: Consolidate) -> list[Found]:
    """Let the trained policy try its problems, some of them again; return what passed."""
    recipe, run = session.recipe, session.run
    model, tokenizer = session.load(_checkpoint(session))
    engine = session.engine(model, tokenizer)
    require_token_ids(engine)
    problems = _problems(session)
    how = Search(
        second=settings.search,
        tries=settings.tries,
        at_once=recipe.generate.problems_at_once,
        temperature=recipe.generate.temperature,
        answer_tokens=recipe.generate.answer_tokens,
        reflection_tokens=recipe.generate.reflection_tokens,
        model=recipe.model,
        seed=derive_seed(recipe.seed_of("train"), "search"),
    )
    with (
        session.progress("search", len(problems)) as advance,
        open_found(run.found) as found,
        open_searched(run.searched) as searched,
    ):

        def progress(done: int) -> None:
            advance(done, f"{len(found)} answers")
            session.stop.check(f"{len(found)} answers found to consolidate")

        search(
            engine,
            session.conversations(model, tokenizer, engine),
            session.verify,
            problems,
            how,
            found=found,
            searched=searched,
            progress=progress,
        )
        return list(found)


def _train(session: Session, settings: Consolidate, found: Sequence[Found]) -> None:
    """Train on what was found, and write the model; without anything it is the trained one."""
    from mulligan.trainer.consolidate import consolidate, examples_of
    from mulligan.trainer.update import compute_activations_twice

    recipe, run = session.recipe, session.run
    model, tokenizer = session.load(_checkpoint(session), to_train=True)
    engine = session.engine(model, tokenizer)  # copies the model before adapters are put into it
    conversations = session.conversations(model, tokenizer, engine)
    policy = session.policy(model)
    if recipe.train.gradient_checkpointing:
        compute_activations_twice(policy.model)
    seed = derive_seed(recipe.seed_of("train"), "consolidate")
    if any(each.at == "retry" for each in found):
        examples = examples_of(found, settings.solved_share, seed)
        total = settings.epochs * -(-len(examples) // settings.batch)
        with (
            session.progress("consolidate", total) as advance,
            RecordLog(run.consolidation, ConsolidationStep, lambda line: str(line.step)) as log,
        ):

            def report(line: ConsolidationStep) -> None:
                log.append(line)
                advance(1, f"loss {line.loss:.3f}")
                session.stop.check(f"consolidation step {line.step}; it starts again on resume")

            consolidate(policy, engine, conversations, examples, recipe, settings, report=report)
    else:
        logger.warning("No second try passed, so there is nothing to consolidate: the model stays.")
    remove_folder(run.model)
    with whole_folder(run.model) as folder:
        policy.finished().save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _checkpoint(session: Session) -> str:
    """Return the checkpoint that the round's training ended with."""
    step = trained_step(session.run, session.recipe)
    return str(checkpoints_of(session.run, session.recipe).path(step))
