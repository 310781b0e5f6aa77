"""Several groups in one stream: each as if it were alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mulligan.logprobs import kernels
from mulligan.logprobs.packing import PromptGroup
from mulligan.logprobs.shared_prompt import group_logprobs, stream_logprobs
from tiny_models import gradients, largest_difference, make_ids, make_model


def make_groups(shapes):
    """A group for each prompt length and lengths of completions."""
    return [
        PromptGroup(
            make_ids(prompt, seed=100 * i),
            [make_ids(length, seed=100 * i + j + 1) for j, length in enumerate(lengths)],
        )
        for i, (prompt, lengths) in enumerate(shapes)
    ]


def weighted_sum(logprobs_GR):
    weights = torch.linspace(-1, 1.5, logprobs_GR.numel()).view_as(logprobs_GR)
    return (logprobs_GR * weights).sum()


def scored_alone(model, groups):
    found = [group_logprobs(model, g.prompt_ids, g.completions, 0.9) for g in groups]
    sum(weighted_sum(logprobs_GR) for logprobs_GR, _ in found).backward()
    return found, gradients(model)


def scored_together(model, groups):
    found = stream_logprobs(model, groups, 0.9)
    sum(weighted_sum(logprobs_GR) for logprobs_GR, _ in found).backward()
    return found, gradients(model)


def require_equal_scores(found, expected):
    for (logprobs_GR, mask_GR), (expected_GR, expected_mask_GR) in zip(
        found, expected, strict=True
    ):
        assert torch.equal(mask_GR, expected_mask_GR)
        assert logprobs_GR.shape == expected_GR.shape
        assert logprobs_GR.numel() == 0 or (logprobs_GR - expected_GR).abs().max().item() < 1e-5


SHAPES = st.lists(
    st.tuples(st.integers(1, 40), st.lists(st.integers(0, 20), min_size=1, max_size=5)),
    min_size=1,
    max_size=5,
).filter(lambda shapes: any(any(lengths) for _, lengths in shapes))


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.sampled_from([1, 1 << 9, 1 << 18]), st.sampled_from(["llama", "qwen2"]))
def test_groups_of_any_shape_score_together_as_they_do_alone(shapes, batched_scores, architecture):
    model, groups = make_model(architecture), make_groups(shapes)
    expected, expected_gradients = scored_alone(model, groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "BATCHED_SCORES", batched_scores)
        found, found_gradients = scored_together(model, groups)
    require_equal_scores(found, expected)
    assert largest_difference(found_gradients, expected_gradients) < 2e-5
