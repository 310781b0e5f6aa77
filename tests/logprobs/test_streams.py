"""Several groups in one stream: each as if it were alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mulligan.logprobs import attention, kernels
from mulligan.logprobs.blocks import CpuFlashBlock
from mulligan.logprobs.packing import PromptGroup, pack
from mulligan.logprobs.shared_prompt import (
    GroupScorer,
    group_logprobs,
    model_logprobs,
    stream_logprobs,
)
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
    largest = max(each.abs().max().item() for each in expected_gradients.values())
    assert largest_difference(found_gradients, expected_gradients) < 1e-5 * max(largest, 1)


RAGGED = [(19, (7, 1, 0, 12)), (6, (5, 5)), (30, (1, 9, 3))]


def owners(stream):
    """Whose each token of a stream is: (group, None) for a prompt's, (group, row) for the rest."""
    prompts = [(i, None) for i, (length, _) in enumerate(stream.groups) for _ in range(length)]
    rows = [
        (i, row)
        for i, (_, lengths) in enumerate(stream.groups)
        for row, length in enumerate(lengths)
        for _ in range(length)
    ]
    return prompts + rows


def test_a_completion_sees_its_prompt_and_itself_and_no_token_of_anyone_else(model):
    groups, embedded = make_groups(RAGGED), []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: embedded.append(output)
    )
    found = stream_logprobs(model, groups)
    hook.remove()
    owned = owners(pack(groups))
    for i, (logprobs_GR, _) in enumerate(found):
        for row, completion in enumerate(groups[i].completions):
            if not completion:
                continue
            (gradient,) = torch.autograd.grad(
                logprobs_GR[row].sum(), embedded[0], retain_graph=True
            )
            reached = {owned[t] for t in gradient[0].abs().sum(-1).nonzero().flatten().tolist()}
            assert reached == {(i, None), *([(i, row)] if len(completion) > 1 else [])}


def test_other_words_in_one_group_change_nothing_in_the_others(model):
    groups = make_groups(RAGGED)
    changed = PromptGroup(make_ids(6, 77), [make_ids(5, 78), make_ids(5, 79)])
    before = stream_logprobs(model, groups)
    after = stream_logprobs(model, [groups[0], changed, groups[2]])
    assert torch.equal(before[0][0], after[0][0])
    assert torch.equal(before[2][0], after[2][0])
    assert not torch.equal(before[1][0], after[1][0])


def test_groups_of_nothing_have_no_logprobs_beside_others_that_have_some(model):
    groups = [PromptGroup((5, 6), [(), ()]), *make_groups([(4, (3, 1))]), PromptGroup((7,), [()])]
    found = stream_logprobs(model, groups)
    assert [mask_GR.sum().item() for _, mask_GR in found] == [0, 4, 0]
    sum(logprobs_GR.sum() for logprobs_GR, _ in found).backward()
    nothing = stream_logprobs(model, groups[:1])
    assert nothing[0][0].shape == (2, 0)
    nothing[0][0].sum().backward()


def test_only_the_tokens_that_are_wanted_are_scored(model):
    wanted = [(True, False, True), (False, False), (True,)]
    groups = make_groups([(4, (3, 2, 1)), (9, (2, 2))])
    some = [PromptGroup(groups[0].prompt_ids, groups[0].completions, wanted), groups[1]]
    everything, found = stream_logprobs(model, groups), stream_logprobs(model, some)
    assert found[0][1].tolist() == [[True, False, True], [False] * 3, [True, False, False]]
    difference_GR = (found[0][0] - everything[0][0]) * found[0][1]
    assert difference_GR.abs().max().item() < 1e-5
    assert (found[1][0] - everything[1][0]).abs().max().item() < 1e-5


def test_a_stream_of_one_group_is_three_blocks_to_the_bit():
    """What version 0.1.0 computed: a run of its goes on with the same numbers."""
    P, lengths, scale, block = 19, (7, 12, 3), 0.3, CpuFlashBlock()
    tokens = P + sum(lengths)
    torch.manual_seed(0)
    q, (k, v) = torch.randn(6, tokens, 8), torch.randn(2, 2, tokens, 8)
    layout = attention.StreamLayout.create([(P, lengths)], torch.device("cpu"))
    found = attention.SharedPromptAttention.apply(q, k, v, layout, scale)

    def padded(x):
        rows = torch.zeros(3, x.shape[0], 12, 8)
        for row, piece in enumerate(x[:, P:].split(lengths, dim=1)):
            rows[row, :, : piece.shape[1]] = piece
        return rows

    def unpadded(rows):
        pieces = [rows[i, :, :length].transpose(0, 1) for i, length in enumerate(lengths)]
        return torch.cat(pieces).transpose(0, 1)

    prompt, _ = block.forward(q[None, :, :P], k[None, :, :P], v[None, :, :P], True, scale)
    shared = block.forward(q[None, :, P:], k[None, :, :P], v[None, :, :P], False, scale)
    own = block.forward(padded(q), padded(k), padded(v), True, scale)
    merged, _ = attention._merge(*(x[0] for x in shared), *map(unpadded, own))
    assert torch.equal(found, torch.cat((prompt[0], merged), dim=1))


SLIDING = {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 0}


def test_groups_that_cannot_share_a_prompt_are_scored_beside_those_that_can():
    scorer = GroupScorer(make_model("qwen2", **SLIDING))
    groups = make_groups([(19, (4, 3)), (30, (9, 2)), (5, (6,))])
    paths = [scorer.path(each.prompt_ids, each.completions) for each in groups]
    assert paths == ["shared", "plain", "shared"]
    expected = [model_logprobs(scorer.model, each.prompt_ids, each.completions) for each in groups]
    require_equal_scores(scorer.score(groups), expected)
