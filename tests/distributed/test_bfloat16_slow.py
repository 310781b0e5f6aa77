"""Any number of processes draws the same tokens but for rounding: what rounding changes."""

import pytest

from mulligan.engines.local.engine import LocalEngine
from mulligan.episodes.conversation import Conversations
from mulligan.models.load import load_model
from mulligan.tasks.countdown.task import Countdown
from mulligan.tasks.splits import first_problems
from mulligan.types import Sampling

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SAMPLING = Sampling(0.9, 32, seed=1)
SAMPLES = 4


def sampled(dtype):
    """What one process draws, and what two draw of which each has half of the prompts."""
    model, tokenizer = load_model("smollm2-135m", dtype, "cpu")
    speak = Conversations(tokenizer, "That is wrong. Reflect on what went wrong.")
    prompts = [speak.attempt(each) for each in first_problems(Countdown(), "train", 16)]
    engine, half = LocalEngine(model, tokenizer), len(prompts) // 2
    one = engine.generate(prompts, SAMPLES, SAMPLING)
    engine.reset_cache()
    two = engine.generate(prompts[:half], SAMPLES, SAMPLING)
    engine.reset_cache()
    two += engine.generate(prompts[half:], SAMPLES, SAMPLING, first=half)
    return [
        (ours.token_ids, theirs.token_ids)
        for rows in zip(one, two, strict=True)
        for ours, theirs in zip(*rows, strict=True)
    ]


def equal_at_first(ours, theirs):
    """How many tokens are equal before the first that is not."""
    places = zip(ours, theirs, strict=False)
    return next((at for at, (a, b) in enumerate(places) if a != b), min(len(ours), len(theirs)))


def test_in_float32_two_processes_draw_what_one_does():
    assert [ours for ours, theirs in sampled("float32") if ours != theirs] == []


def test_in_bfloat16_fewer_than_one_token_in_ten_is_another_one():
    """Measured once: one in 17 (47 of 64 completions, 786 tokens), on a base model that rambles.

    A draw inverts the cumulative distribution, which sums the rounding of 49,152 logits.
    """
    pairs = sampled("bfloat16")
    differ = sum(ours != theirs for ours, theirs in pairs)
    tokens = sum(equal_at_first(*pair) for pair in pairs)
    print(f"{differ} of {len(pairs)} completions differ; {tokens} tokens are equal")  # noqa: T201
    assert differ < 0.1 * tokens
