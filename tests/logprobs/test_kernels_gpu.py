"""Attention on a GPU against attention spelt out, and the whole scorer with it."""

import pytest
import torch

from mulligan.logprobs.blocks import CudaFlashBlock, PlainBlock
from mulligan.logprobs.kernels import BlockKernel, VarlenKernel, choose_kernel
from mulligan.logprobs.packing import PromptGroup
from mulligan.logprobs.shared_prompt import GroupScorer, model_logprobs, stream_logprobs
from ragged import errors, make_ranges, make_tensors
from tiny_models import make_ids, make_model

pytestmark = pytest.mark.gpu

RANGES = {
    "prompts": ((300, 45, 64), None),
    "completions": ((20, 1, 7, 33, 150), None),
    "completions on prompts": ((61, 0, 150), (300, 45, 64)),
    "single tokens on prompts": ((1, 0, 1), (300, 45, 64)),
}
FUSED = [VarlenKernel(), BlockKernel(CudaFlashBlock())]


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("kernel", FUSED, ids=["varlen", "blocks"])
def test_fused_kernels_are_near_attention_in_full_precision(kernel, dim, name):
    ranges = make_ranges(*RANGES[name], device="cuda")
    tensors = make_tensors(ranges, dim, torch.bfloat16, "cuda")
    assert max(errors(kernel, ranges, tensors)) < 0.02


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("dim", [64, 128])
def test_full_precision_is_attention_as_spelt_out(dim, name):
    ranges = make_ranges(*RANGES[name], device="cuda")
    tensors = make_tensors(ranges, dim, torch.float32, "cuda")
    kernel = choose_kernel(tensors[0])
    assert isinstance(kernel, BlockKernel)
    assert isinstance(kernel.block, PlainBlock)
    assert max(errors(kernel, ranges, tensors)) < 1e-4


def test_half_precision_takes_the_ragged_kernel():
    assert isinstance(choose_kernel(torch.zeros(6, 3, 64, device="cuda").bfloat16()), VarlenKernel)


@pytest.mark.parametrize("half", [False, True])
def test_several_groups_in_one_stream_score_as_by_the_models_own_logits(half):
    model = make_model("llama", hidden_size=384).to("cuda")  # six heads of 64
    groups = [
        PromptGroup(make_ids(19, 1), [make_ids(n, 10 + n) for n in (7, 1, 0, 12)]),
        PromptGroup(make_ids(40, 2), [make_ids(n, 30 + n) for n in (3, 20)]),
    ]
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        found = stream_logprobs(model, groups)
        sum(logprobs_GR.sum() for logprobs_GR, _ in found).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert GroupScorer(model).path(groups[0].prompt_ids, groups[0].completions) == "shared"
    for (logprobs_GR, mask_GR), group in zip(found, groups, strict=True):
        expected_GR, _ = model_logprobs(model, group.prompt_ids, group.completions)
        difference = (logprobs_GR - expected_GR)[mask_GR].abs()
        assert difference.mean().item() < (0.05 if half else 1e-4)
