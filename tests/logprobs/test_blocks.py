import pytest
import torch

from mulligan.logprobs.blocks import CpuFlashBlock, PlainBlock

BLOCKS = [CpuFlashBlock(), PlainBlock()]
SCALE = 0.3


def make_tensors(queries, keys, batch=2, dtype=torch.float32):
    """Six query heads over two key heads."""
    torch.manual_seed(queries * 100 + keys)
    q = torch.randn(batch, 6, queries, 8, dtype=dtype)
    k, v = torch.randn(2, batch, 2, keys, 8, dtype=dtype)
    return q, k, v, torch.randn(batch, 6, queries, 8, dtype=dtype)


def reference(q, k, v, grad_out, causal):
    """Attention spelt out in fp64, and its gradients by autograd."""
    q, k, v = (x.double().requires_grad_() for x in (q, k, v))
    scores = SCALE * q @ k.repeat_interleave(3, dim=1).transpose(-1, -2)
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    out = scores.softmax(-1) @ v.repeat_interleave(3, dim=1)
    return out, scores.logsumexp(-1), torch.autograd.grad(out, (q, k, v), grad_out.double())


@pytest.mark.parametrize(
    ("queries", "keys", "causal"), [(5, 5, True), (7, 40, False), (1, 1, True)]
)
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: type(block).__name__)
def test_a_block_is_attention_as_spelt_out(block, queries, keys, causal):
    q, k, v, grad_out = make_tensors(queries, keys)
    expected, expected_lse, expected_gradients = reference(q, k, v, grad_out, causal)
    out, lse = block.forward(q, k, v, causal, SCALE)
    assert (out - expected).abs().max().item() < 1e-5
    assert (lse - expected_lse).abs().max().item() < 1e-5
    found = block.backward(grad_out, q, k, v, out, lse, causal, SCALE)
    for a, b in zip(found, expected_gradients, strict=True):
        assert (a - b).abs().max().item() < 1e-5


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: type(block).__name__)
def test_backwards_of_two_blocks_of_keys_add_up_to_the_backward_of_all(block):
    q, k, v, grad_out = make_tensors(6, 9)
    out, lse = block.forward(q, k, v, False, SCALE)
    whole = block.backward(grad_out, q, k, v, out, lse, False, SCALE)
    a, b = (
        block.backward(grad_out, q, k[:, :, cut], v[:, :, cut], out, lse, False, SCALE)
        for cut in (slice(0, 4), slice(4, 9))
    )
    assert (a[0] + b[0] - whole[0]).abs().max().item() < 1e-5
    for i in (1, 2):
        assert (torch.cat((a[i], b[i]), dim=2) - whole[i]).abs().max().item() < 1e-5


@pytest.mark.parametrize("keys", [40, 300])
def test_half_precision_gradients_are_near_those_of_full_precision(keys):
    """On both sides of the length at which the backward changes its way."""
    q, k, v, grad_out = make_tensors(keys, keys, batch=1, dtype=torch.bfloat16)
    _, _, expected = reference(q, k, v, grad_out, True)
    out, lse = CpuFlashBlock().forward(q, k, v, True, SCALE)
    found = CpuFlashBlock().backward(grad_out, q, k, v, out, lse, True, SCALE)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.bfloat16
        assert ((a - b).norm() / b.norm()).item() < 0.02
