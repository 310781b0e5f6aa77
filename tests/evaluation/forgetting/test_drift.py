import math

import pytest

from mulligan.evaluation.forgetting import drift
from mulligan.logprobs.divergence import Compared


def test_english_is_as_long_as_asked_and_every_window_has_context(tiny_tokenizer):
    windows = drift.english(tiny_tokenizer, 1000)

    assert sum(len(after) for _, after in windows) == 1000
    assert all(len(before) == 1 and len(after) <= drift.WINDOW for before, after in windows)
    assert len(tiny_tokenizer.decode(windows[0][1])) > 200
    assert windows == drift.english(tiny_tokenizer, 1000)


def test_stages_are_each_step_and_the_whole_way():
    assert drift.stages(("original", "warmed_up", "trained")) == [
        ("original", "warmed_up"),
        ("warmed_up", "trained"),
        ("original", "trained"),
    ]
    assert drift.stages(("original", "trained")) == [("original", "trained")]


def test_perplexity_is_the_exponential_of_the_mean_surprise():
    found = [Compared(2, (2 * math.log(8), 0.0), ()), Compared(1, (math.log(8), 0.0), ())]

    first, second = drift.perplexities(("original", "trained"), found)

    assert first.perplexity.value == pytest.approx(8)
    assert (first.perplexity.low, first.perplexity.high) == pytest.approx((8, 8))
    assert (second.tokens, second.perplexity.value) == (3, 1)


def test_on_the_task_each_direction_is_taken_on_the_answers_of_the_model_it_is_from():
    def compared(forward, backward):
        return [Compared(10, (0.0, 0.0), ((0.0, forward), (backward, 0.0)))]

    found = {"original": compared(1.0, 99.0), "trained": compared(99.0, 3.0)}

    [row] = drift.task_drifts(("original", "trained"), found)

    assert (row.forward.value, row.backward.value) == (0.1, 0.3)
    assert row.tokens == 20
