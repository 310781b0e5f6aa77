"""The method in TRL's ``GRPOTrainer``: a rollout function that reflects and retries.

    python examples/trl_rollout_func/train.py runs/NAME

trains on the failures that ``mulligan collect`` stored in a run folder, with that run's recipe, and
writes the model into ``runs/NAME/trl``. TRL takes the optimiser steps; prompts, generation and
verdicts are Mulligan's. The retry is a reward: it is no part of what TRL trains on.
"""

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer

from mulligan.config import Recipe
from mulligan.engines.base import Engine
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.failures import FailureStore
from mulligan.episodes.rollout import Verify, reflect_and_retry
from mulligan.errors import MulliganError
from mulligan.interrupt import StopRequest
from mulligan.models.template import stop_ids
from mulligan.randomness import derive_seed
from mulligan.run.session import open_session, recipe_of
from mulligan.storage.run_folder import RunFolder
from mulligan.types import Episode, Failure, Group, Sampling

SCHEDULES = {"cosine": "cosine", "constant": "constant_with_warmup"}


@dataclass
class ReflectAndRetry:
    """TRL's ``rollout_func``: each prompt is the place of a failure in the store.

    An episode whose retry could not be judged is dropped: TRL wants a row for each prompt, so its
    row is one masked token without a reward, which TRL leaves out of the group's mean and deviation
    and, with ``loss_type="dapo"``, out of the normaliser too.

    Args:
        engine: generates with the trainer's newest weights.
        conversations: makes prompts.
        verify: judges the retries.
        store: the failures.
        recipe: the run's.
        filler: the token of a dropped row.
    """

    engine: Engine
    conversations: Conversations
    verify: Verify
    store: Sequence[Failure] | FailureStore
    recipe: Recipe
    filler: int
    _drawn: tuple[int, int] = field(default=(-1, 0), init=False)
    """The step of the newest rollout, and how many that step has had before it."""

    def __call__(self, prompts: list[str], trainer: GRPOTrainer) -> dict[str, list[Any] | None]:
        """Return a row for each prompt: a reflection, and the verdict on the retry after it.

        Raises:
            MulliganError: the prompts are no whole groups.
        """
        failures, group_size = self._asked(prompts)
        step, policy = trainer.state.global_step, trainer.accelerator.unwrap_model(trainer.model)
        self._drawn = (step, self._drawn[1] + 1 if self._drawn[0] == step else 0)
        if self.engine.policy_version != step:
            self.engine.update_weights(policy, step)
        policy.eval()
        groups = reflect_and_retry(
            self.engine,
            self.conversations,
            self.verify,
            failures,
            group_size,
            self._sampling("reflect", trainer),
            self._sampling("retry", trainer),
        )
        policy.train()
        rows = [row for group in groups for row in self._rows(group, group_size)]
        return {"logprobs": None, **{name: [row[name] for row in rows] for name in rows[0]}}

    def _asked(self, prompts: Sequence[str]) -> tuple[list[Failure], int]:
        """Return the failures that are asked for, and how often each of them is."""
        runs = [(place, len(list(run))) for place, run in itertools.groupby(prompts)]
        sizes = {size for _, size in runs}
        if len(sizes) != 1:
            raise MulliganError(
                f"TRL asked for groups of {sorted(sizes)} reflections at once. Make "
                "per_device_train_batch_size times steps_per_generation a multiple of "
                "num_generations."
            )
        return [self.store[int(place)] for place, _ in runs], sizes.pop()

    def _sampling(self, purpose: str, trainer: GRPOTrainer) -> Sampling:
        generate = self.recipe.generate
        tokens = {"reflect": generate.reflection_tokens, "retry": generate.answer_tokens}[purpose]
        process = trainer.accelerator.process_index
        seed = derive_seed(self.recipe.seed_of("train"), "trl", purpose, *self._drawn, process)
        return Sampling(generate.temperature, tokens, seed)

    def _rows(self, group: Group, group_size: int) -> list[dict[str, Any]]:
        judged = {episode.sample: episode for episode in group.episodes}
        return [
            {"prompt_ids": list(group.prompt_ids), **self._row(judged.get(sample))}
            for sample in range(group_size)
        ]

    def _row(self, episode: Episode | None) -> dict[str, Any]:
        """Return what TRL trains on (``env_mask`` is 1), and what it is worth."""
        if episode is None or episode.reflection is None or episode.verdict is None:
            return {"completion_ids": [self.filler], "env_mask": [0], "passed": None}
        ids = list(episode.reflection.token_ids)
        passed = float(episode.verdict.passed)
        return {"completion_ids": ids, "env_mask": [1] * len(ids), "passed": passed}


def retry_passed(passed: list[float | None], **_: Any) -> list[float | None]:
    """Reward a reflection by the verdict on its retry; one without a verdict has no reward."""
    return passed


def make_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rollout: ReflectAndRetry,
    folder: Path,
) -> GRPOTrainer:
    """Return TRL's trainer with the settings of a recipe.

    Raises:
        MulliganError: the recipe asks for something else than the method, or too few failed.
    """
    recipe, failures = rollout.recipe, len(rollout.store)
    refuse_others(recipe, rollout.engine, failures)
    train, on_cpu = recipe.train, model.device.type == "cpu"
    settings = GRPOConfig(
        output_dir=str(folder),
        use_cpu=on_cpu,
        bf16=recipe.dtype == "bfloat16" and not on_cpu,
        report_to="none",
        save_strategy="no",
        seed=recipe.seed_of("train"),
        max_steps=train.steps,
        per_device_train_batch_size=train.group_size,
        gradient_accumulation_steps=train.failures_per_step,
        num_generations=train.group_size,
        max_completion_length=recipe.generate.reflection_tokens,
        temperature=recipe.generate.temperature,
        loss_type=train.loss,
        beta=train.kl_beta,
        use_bias_correction_kl=train.kl_form == "unbiased",
        epsilon=train.epsilon_low,
        epsilon_high=train.epsilon_high,
        scale_rewards="group" if train.scale_advantages else "none",
        mask_truncated_completions=train.mask_truncated,
        learning_rate=train.learning_rate,
        lr_scheduler_type=SCHEDULES[train.schedule],
        warmup_steps=train.warmup_ratio,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        gradient_checkpointing=train.gradient_checkpointing,
    )
    return GRPOTrainer(
        model=model,
        reward_funcs=retry_passed,
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": [str(place) for place in range(failures)]}),
        processing_class=tokenizer,
        rollout_func=rollout,
    )


def refuse_others(recipe: Recipe, engine: Engine, failures: int) -> None:
    """Refuse what this example does not do.

    Raises:
        MulliganError: naming it.
    """
    train = recipe.train
    wanted = {
        "train.reward=verdict": train.reward == "verdict",
        "train.learn=reflection": train.learn == "reflection",
        "train.loss=dapo, grpo or dr_grpo": train.loss in ("dapo", "grpo", "dr_grpo"),
        "no lora section": recipe.lora is None,
        "an engine whose log-probs are the trainer's (engine.kind=local)": engine.abilities.exact,
        f"train.failures_per_step of at most the {failures} failures that are stored": (
            train.failures_per_step <= failures
        ),
    }
    lacking = [what for what, there in wanted.items() if not there]
    if lacking:
        raise MulliganError(f"This example needs {'; '.join(lacking)}.")


def train(run: Path) -> Path:
    """Train on the failures of a run folder; return the folder of the trained model."""
    folder = RunFolder(run)
    recipe, target = recipe_of(folder), folder.path / "trl"
    with (
        open_session(recipe, folder, Console(), StopRequest()) as session,
        FailureStore(folder.failures) as store,
    ):
        model, tokenizer = session.load(session.start_model, to_train=True)
        engine = session.engine(model, tokenizer)
        conversations = session.conversations(model, tokenizer, engine)
        rollout = ReflectAndRetry(
            engine, conversations, session.verify, store, recipe, min(stop_ids(model, tokenizer))
        )
        trainer = make_trainer(model, tokenizer, rollout, target)
        trainer.train()
        trainer.save_model(str(target))
    return target


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="Train on a run's failures with TRL.")
    parser.add_argument("run", type=Path, help="a run folder in which failures were collected")
    Console().print(f"Trained model: {train(parser.parse_args().run)}")


if __name__ == "__main__":
    main()
