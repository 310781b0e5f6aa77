import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_on_cpu import flash_on_cpu
from mulligan.logprobs import kernels
from mulligan.logprobs.blocks import CpuFlashBlock, CudaFlashBlock, PlainBlock
from mulligan.logprobs.kernels import BlockKernel, Ranges, VarlenKernel, choose_kernel
from mulligan.logprobs.packing import PromptGroup
from mulligan.logprobs.shared_prompt import model_logprobs, stream_logprobs
from ragged import SCALE, errors, make_ranges, make_tensors
from tiny_models import make_ids, make_model

BLOCKS = [CpuFlashBlock(), PlainBlock()]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.sampled_from([1, 300, 1 << 18]))
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: type(block).__name__)
def test_ranges_that_attend_to_themselves_are_attention_as_spelt_out(
    block, lengths, batched_scores
):
    ranges = make_ranges(lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "BATCHED_SCORES", batched_scores)
        assert max(errors(BlockKernel(block), ranges, make_tensors(ranges))) < 1e-5


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 30)), min_size=1, max_size=6).filter(
        lambda pairs: any(queries for queries, _ in pairs)
    )
)
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: type(block).__name__)
def test_ranges_that_attend_to_other_keys_are_too_and_some_may_have_no_queries(block, pairs):
    ranges = make_ranges(*zip(*pairs, strict=True))
    assert max(errors(BlockKernel(block), ranges, make_tensors(ranges))) < 1e-5


def test_short_groups_are_batched_and_long_ones_stand_alone():
    lengths = (20, 18, 20, 3, 400, 380, 20)
    ranges = Ranges(lengths, lengths, True, (2, 2, 2, 1), torch.device("cpu"))
    assert [batch.lengths_B for batch in ranges.batches] == [(20, 18, 20, 3), (400, 380), (20,)]


def test_a_group_is_one_batch_however_long():
    ranges = Ranges((900, 2), (900, 2), True, (2,), torch.device("cpu"))
    assert [batch.lengths_B for batch in ranges.batches] == [(900, 2)]


@pytest.mark.parametrize("name", ["VarlenKernel", "CudaFlashBlock"])
@pytest.mark.parametrize("keys", [None, (9, 5, 7)])
def test_calls_for_cuda_are_what_this_pytorch_takes_and_returns(name, keys):
    """Shapes only, on the device without data: the numbers need a GPU."""
    assert kernels.has_varlen()
    kernel = VarlenKernel() if name == "VarlenKernel" else BlockKernel(CudaFlashBlock())
    ranges = make_ranges((4, 0, 6) if keys else (4, 1, 6), keys, device="meta")
    q, k, v, grad_out = make_tensors(ranges, dtype=torch.bfloat16, device="meta")
    out, lse = kernel.forward(q, k, v, ranges, SCALE)
    assert (out.shape, lse.shape, lse.dtype) == (q.shape, q.shape[:2], torch.float32)
    found = kernel.backward(grad_out, q, k, v, out, lse, ranges, SCALE)
    assert [each.shape for each in found] == [q.shape, k.shape, v.shape]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 12)), min_size=1, max_size=5).filter(
        lambda pairs: any(queries for queries, _ in pairs)
    ),
    st.booleans(),
)
def test_the_ragged_kernel_of_cuda_is_called_as_it_asks(pairs, causal):
    """By an implementation for CPUs below torch's own ragged attention."""
    queries, keys = zip(*pairs, strict=True)
    ranges = make_ranges(keys) if causal else make_ranges(queries, keys)
    with flash_on_cpu():
        found = errors(VarlenKernel(), ranges, make_tensors(ranges, dtype=torch.bfloat16))
    assert max(found) < 0.02


def test_single_tokens_of_some_groups_on_prompts_are_not_taken_for_one_of_each():
    """A longest range of one query has a way of its own, which expects a query in every range."""
    ranges = make_ranges((1, 0, 1), (5, 3, 4))
    with flash_on_cpu():
        found = errors(VarlenKernel(), ranges, make_tensors(ranges, dtype=torch.bfloat16))
    assert max(found) < 0.02


def test_any_number_of_groups_is_three_ragged_calls_for_each_layer(monkeypatch):
    monkeypatch.setattr("mulligan.logprobs.attention.choose_kernel", lambda q: VarlenKernel())
    model = make_model("llama")
    groups = [
        PromptGroup(make_ids(19, 1), [make_ids(n, 10 + n) for n in (7, 1, 0, 12)]),
        PromptGroup(make_ids(40, 2), [make_ids(n, 30 + n) for n in (3, 20)]),
        PromptGroup(make_ids(5, 3), [make_ids(1, 60)]),
    ]
    with flash_on_cpu() as calls:
        with torch.autocast("cpu", torch.bfloat16):
            found = stream_logprobs(model, groups)
        assert calls == ["forward"] * 3 * model.config.num_hidden_layers
        sum(logprobs_GR.sum() for logprobs_GR, _ in found).backward()
    assert calls.count("backward") == 3 * model.config.num_hidden_layers
    assert all(each.grad.isfinite().all() for each in model.parameters())
    for (logprobs_GR, mask_GR), group in zip(found, groups, strict=True):
        expected_GR, _ = model_logprobs(model, group.prompt_ids, group.completions)
        assert (logprobs_GR - expected_GR)[mask_GR].abs().mean().item() < 0.05


def test_a_cpu_takes_its_fused_blocks():
    kernel = choose_kernel(torch.zeros(6, 3, 8))
    assert isinstance(kernel, BlockKernel)
    assert isinstance(kernel.block, CpuFlashBlock)
