import pytest
import torch
from torch import nn

from mulligan.logprobs import head as head_module
from mulligan.logprobs.head import LogitShape, token_logprobs
from tiny_models import LargestTensor

SHAPES = [LogitShape(), LogitShape(temperature=0.7), LogitShape(0.5, 3.0, 0.9)]


def full_logprobs(hidden, head, targets, shape):
    """The same by full logits."""
    logits = head(hidden) * shape.scale
    if shape.softcap is not None:
        logits = shape.softcap * torch.tanh(logits / shape.softcap)
    logprobs = torch.log_softmax(logits / shape.temperature, dim=-1)
    return logprobs.gather(1, targets.unsqueeze(1)).squeeze(1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("elements", [50, 1 << 22])
def test_a_sliced_head_gives_values_and_gradients_of_a_full_one(shape, bias, elements, monkeypatch):
    monkeypatch.setattr(head_module, "logits_at_once", lambda device: elements)
    torch.manual_seed(0)
    head = nn.Linear(16, 101, bias=bias)
    hidden = (3 * torch.randn(9, 16)).requires_grad_()
    targets = torch.tensor([0, 100, 5, 6, 7, 50, 49, 51, 99])
    weights = torch.randn(9)
    results = []
    for function in (full_logprobs, token_logprobs):
        values = function(hidden, head, targets, shape)
        inputs = [hidden, *head.parameters()]
        results.append([values, *torch.autograd.grad((values * weights).sum(), inputs)])
    for expected, found in zip(*results, strict=True):
        assert (found - expected).abs().max().item() < 1e-5


def test_full_logits_exist_neither_forward_nor_backward(monkeypatch):
    monkeypatch.setattr(head_module, "logits_at_once", lambda device: 1 << 14)
    tokens, vocabulary = 256, 2048
    head = nn.Linear(8, vocabulary, bias=False)
    hidden = torch.randn(tokens, 8, requires_grad=True)
    with LargestTensor() as seen:
        targets = torch.randint(vocabulary, (tokens,))
        token_logprobs(hidden, head, targets, LogitShape()).sum().backward()
    assert seen.largest <= max(1 << 14, vocabulary * 8)
    assert seen.largest < tokens * vocabulary / 30


@pytest.mark.parametrize("kept", [0, 9 * 25, 9 * 60, 9 * 101])
def test_logits_that_are_kept_give_the_bits_of_those_computed_again(kept, monkeypatch):
    monkeypatch.setattr(head_module, "logits_at_once", lambda device: 9 * 20)  # six slices
    computed, compute = [], head_module._logits
    monkeypatch.setattr(head_module, "_logits", lambda *each: computed.append(1) or compute(*each))
    torch.manual_seed(0)
    head = nn.Linear(16, 101).bfloat16()
    hidden = (3 * torch.randn(9, 16)).bfloat16().requires_grad_()
    results = []
    for room in (0, kept):
        monkeypatch.setattr(head_module, "logits_kept", lambda device, room=room: room)
        computed.clear()
        values = token_logprobs(hidden, head, torch.arange(0, 90, 10), LogitShape(0.5, 3.0, 0.9))
        results.append([values, *torch.autograd.grad(values.sum(), [hidden, *head.parameters()])])
    assert len(computed) == 6 + 6 - (kept // (9 * 20) if kept < 9 * 101 else 6)
    for again, known in zip(*results, strict=True):
        assert torch.equal(again, known)


def test_logits_of_float32_and_those_without_a_backward_are_not_kept(monkeypatch):
    monkeypatch.setattr(head_module, "logits_kept", lambda device: pytest.fail("asked"))
    head, targets = nn.Linear(4, 7), torch.tensor([0, 6])
    token_logprobs(torch.randn(2, 4, requires_grad=True), head, targets, LogitShape())
    with torch.no_grad():
        token_logprobs(torch.randn(2, 4).bfloat16(), head.bfloat16(), targets, LogitShape())


def test_logits_of_a_thousand_nats_overflow_nothing():
    head = nn.Linear(1, 3, bias=False)
    head.weight.data = torch.tensor([[1000.0], [-1000.0], [999.0]])
    hidden = torch.ones(1, 1, requires_grad=True)
    logprob = token_logprobs(hidden, head, torch.tensor([1]), LogitShape())
    logprob.backward(torch.ones(1))
    assert logprob.item() == pytest.approx(-2000 - torch.log1p(torch.exp(torch.tensor(-1.0))))
    assert hidden.grad.isfinite().all()
