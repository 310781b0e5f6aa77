"""The method teaches: on a tiny task that it can solve, its pass rate rises by a lot.

The task is to answer "bb". A tiny model is first fine-tuned on conversations whose reflection says
"b" or "c", each half of the time, and whose retry does what the reflection said. So the retry
passes half of the time, and only a better reflection can change that: no token of an answer learns.
"""

from collections.abc import Iterator

import pytest

from mulligan.config import Sft
from mulligan.engines.local.engine import LocalEngine
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.rollout import reflect_and_retry
from mulligan.models.load import load_model
from mulligan.objectives.losses.grpo import Grpo
from mulligan.tasks.base import Task
from mulligan.trainer.sft import fine_tune
from mulligan.types import Demonstration, Problem, Sampling, Verdict
from mulligan.verifiers.pool import InProcessVerifier
from training_bench import Bench, failures


class SayB(Task):
    """Passes for one answer only."""

    name = "say_b"
    safe = True

    def problems(self, split: str) -> Iterator[Problem]:
        for number in range(40):
            yield Problem.create(f"{split}-{number}", {})

    def verify(self, problem: Problem, answer: str) -> Verdict:
        del problem
        return Verdict.right() if answer == "bb" else Verdict.wrong()

    def demonstrations(self, count: int, seed: int) -> Iterator[Demonstration]:
        del seed
        for number, problem in zip(range(count), [*self.problems("train")] * count, strict=False):
            said = "bc"[number // 40 % 2]
            yield Demonstration(problem, "a", said, said * 2)


VERIFIER = InProcessVerifier(SayB())
STEPS = 12
LEARNING = [f"train.steps={STEPS}", "train.failures_per_step=4", "train.group_size=6"]
LEARNING += ["train.learning_rate=2e-3", "train.checkpoint_every=100"]


@pytest.fixture(scope="module")
def follower(tiny_llama, tmp_path_factory):
    """A model whose retries do what its reflections say."""
    policy, tokenizer = load_model(str(tiny_llama), "float32", "cpu")
    fine_tune(
        policy,
        Conversations(tokenizer, "Wrong. Why?"),
        list(SayB().demonstrations(1600, 0)),
        Sft(batch=16, learning_rate=1e-2),
        seed=0,
        dtype="float32",
        first_step_learns=True,
        tokens_at_once=16384,
        report=lambda step: None,
    )
    folder = tmp_path_factory.mktemp("follower")
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pass_rate(policy, tokenizer):
    """Share of 96 retries that pass, on draws that training never makes."""
    speak = Conversations(tokenizer, "Wrong. Why?")
    groups = reflect_and_retry(
        LocalEngine(policy, tokenizer),
        speak,
        VERIFIER.verify_many,
        list(failures(tokenizer, speak)),
        16,
        Sampling(0.9, 6, seed=101),
        Sampling(0.9, 5, seed=102),
    )
    episodes = [episode for group in groups for episode in group.episodes]
    return sum(episode.verdict.passed for episode in episodes) / len(episodes)


def change(bench, follower, name, seed):
    before, tokenizer = load_model(str(follower), "float32", "cpu")
    rate = pass_rate(before, tokenizer)
    after = bench.train(name, *LEARNING, f"seed={seed}", verify=VERIFIER.verify_many)
    return pass_rate(after, tokenizer) - rate


@pytest.fixture
def bench(follower, tmp_path):
    return Bench(tmp_path, follower)


def test_the_model_passes_about_half_of_the_time_before(follower):
    assert 0.3 < pass_rate(*load_model(str(follower), "float32", "cpu")) < 0.7


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_method_raises_the_pass_rate_by_twenty_points(bench, follower, seed):
    assert change(bench, follower, "learns", seed) > 0.2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_with_the_advantages_sign_flipped_it_falls_by_twenty_points(
    bench, follower, seed, monkeypatch
):
    right = Grpo.advantages

    def flipped(self, rewards_G):
        return tuple(-advantage for advantage in right(self, rewards_G))

    monkeypatch.setattr(Grpo, "advantages", flipped)
    assert change(bench, follower, "unlearns", seed) < -0.2
