"""The method teaches: on a tiny task that it can solve, its pass rate rises by a lot.

The task is to answer "bb". A tiny model is first fine-tuned on conversations whose reflection says
"b" or "c", each half of the time, and whose retry does what the reflection said. So the retry
passes half of the time, and only a better reflection can change that: no token of an answer learns.
"""

import pytest

import say_b_task
from mulligan.config import Sft
from mulligan.engines.local.engine import LocalEngine
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.rollout import reflect_and_retry
from mulligan.models.load import load_model
from mulligan.objectives.losses.grpo import Grpo
from mulligan.trainer.sft import fine_tune
from mulligan.types import Sampling
from mulligan.verifiers.pool import InProcessVerifier
from say_b_task import SayB
from tiny import lines, run_cli, write_recipe
from training_bench import Bench, failures

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


def first_tries_that_pass(run, when):
    rows = lines(run / "evaluation" / f"{when}.jsonl")
    return sum(row["first_try"]["verdict"]["status"] == "passed" for row in rows) / len(rows)


@pytest.mark.parametrize(("method", "epochs"), [("sft", 4), ("distill", 16)])
def test_consolidation_moves_what_reflections_found_into_the_first_try(
    follower, tmp_path, method, epochs
):
    recipe = write_recipe(
        tmp_path,
        follower,
        task=say_b_task.__file__,
        sft=None,
        collect__problems=24,
        train__steps=1,
        train__learning_rate=1e-6,  # the training itself hardly moves it
        evaluate__problems=30,
        consolidate={"method": method, "batch": 8, "learning_rate": 2e-3, "epochs": epochs},
    )
    outcome = run_cli("run", recipe, "--runs", tmp_path)
    assert outcome.code == 0, outcome.err
    run = tmp_path / "tiny"
    assert first_tries_that_pass(run, "after") > first_tries_that_pass(run, "before") + 0.2
