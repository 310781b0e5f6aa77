"""The vocabulary head, a slice of the vocabulary at a time.

What it saves: full logits never exist in fp32, neither forward nor backward. A slice's logits are
computed, reduced to a running log-sum-exp, and computed again in the backward; a CPU keeps those of
half precision instead, as far as they take little memory (`logits_kept`). Slicing the vocabulary
rather than the tokens writes every row of the weight's gradient once, at the matrix product's own
precision, with nothing to accumulate.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mulligan.models.memory import logits_at_once, logits_kept


@dataclass(frozen=True, slots=True)
class LogitShape:
    """What happens to the logits after the matrix product, in this order."""

    scale: float = 1.0
    """A factor of the model's own."""
    softcap: float | None = None
    """logits -> cap * tanh(logits / cap), where the model has it."""
    temperature: float = 1.0
    """Divides the logits, as in sampling."""

    @classmethod
    def of(cls, model: PreTrainedModel, temperature: float) -> Self:
        """Read the model's part from its configuration."""
        config = model.config.get_text_config()
        factor = getattr(config, "logit_scale", None)  # Cohere multiplies
        divisor = getattr(config, "logits_scaling", None)  # Granite divides
        scale = factor if factor is not None else 1.0 / divisor if divisor else 1.0
        softcap = getattr(config, "final_logit_softcapping", None)  # Gemma
        return cls(float(scale), softcap, temperature)

    def apply(self, logits: Tensor) -> Tensor:
        """Return shaped logits in fp32."""
        if self.softcap is None:
            return logits.float().mul_(self.scale / self.temperature)
        capped = torch.tanh(logits.float() * (self.scale / self.softcap))
        return capped.mul_(self.softcap / self.temperature)

    def backward(self, grad_shaped: Tensor, shaped: Tensor) -> Tensor:
        """Return the gradient of the logits, from that of the shaped logits."""
        if self.softcap is not None:
            grad_shaped = grad_shaped * (1 - (shaped * (self.temperature / self.softcap)).square())
        return grad_shaped.mul_(self.scale / self.temperature)


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(shape(hidden W^T + b))[target] for each of N tokens."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        shape: LogitShape,
    ) -> Tensor:
        lse_N = hidden_ND.new_full(targets_N.shape, -torch.inf, dtype=torch.float32)
        chosen_N = torch.zeros_like(lse_N)
        keeps = ctx.needs_input_grad[0] and hidden_ND.dtype != torch.float32
        room = logits_kept(hidden_ND.device.type) if keeps else 0
        kept: list[Tensor] = []
        for rows in _slices(hidden_ND, weight_VD):
            logits = _logits(hidden_ND, weight_VD, bias_V, rows)
            if rows.stop * len(hidden_ND) <= room:
                kept.append(logits)
            shaped = shape.apply(logits)
            place_N, inside_N = _locate(targets_N, rows)
            found_N = shaped.gather(1, place_N.unsqueeze(1)).squeeze(1)
            chosen_N = torch.where(inside_N, found_N, chosen_N)
            lse_N = torch.logaddexp(lse_N, torch.logsumexp(shaped, dim=1))
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, targets_N, lse_N, *kept)
        ctx.shape = shape
        return chosen_N - lse_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, targets_N, lse_N, *kept = ctx.saved_tensors
        grad_hidden = torch.zeros_like(hidden_ND, dtype=torch.float32)
        grad_weight = torch.empty_like(weight_VD) if ctx.needs_input_grad[1] else None
        grad_bias = torch.empty_like(bias_V) if ctx.needs_input_grad[2] else None
        for number, rows in enumerate(_slices(hidden_ND, weight_VD)):
            known = number < len(kept)
            logits = kept[number] if known else _logits(hidden_ND, weight_VD, bias_V, rows)
            shaped = ctx.shape.apply(logits)
            # d logprob / d shaped = onehot(target) - softmax
            grad = torch.exp(shaped - lse_N.unsqueeze(1)).mul_(-grad_N.unsqueeze(1))
            place_N, inside_N = _locate(targets_N, rows)
            grad.scatter_add_(1, place_N.unsqueeze(1), (grad_N * inside_N).unsqueeze(1))
            grad = ctx.shape.backward(grad, shaped).to(hidden_ND.dtype)
            grad_hidden += grad @ weight_VD[rows]
            if grad_weight is not None:
                torch.mm(grad.T, hidden_ND, out=grad_weight[rows])
            if grad_bias is not None:
                grad_bias[rows] = grad.sum(0)
        return grad_hidden.to(hidden_ND.dtype), grad_weight, grad_bias, None, None


def _slices(hidden_ND: Tensor, weight_VD: Tensor) -> list[slice]:
    """Cut the vocabulary so that one slice's logits stay within what suits the device."""
    vocabulary = weight_VD.shape[0]
    width = max(logits_at_once(hidden_ND.device.type) // max(hidden_ND.shape[0], 1), 1)
    return [slice(low, min(low + width, vocabulary)) for low in range(0, vocabulary, width)]


def _logits(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, rows: slice) -> Tensor:
    return nn.functional.linear(
        hidden_ND, weight_VD[rows], None if bias_V is None else bias_V[rows]
    )


def _locate(targets_N: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """Return each target's place within the slice, clamped into it, and whether it is inside."""
    inside_N = (targets_N >= rows.start) & (targets_N < rows.stop)
    return targets_N.clamp(rows.start, rows.stop - 1) - rows.start, inside_N


def token_logprobs(
    hidden_ND: Tensor,
    head: nn.Linear,
    targets_N: Tensor,
    shape: LogitShape,
) -> Tensor:
    """Return the fp32 log-probability of each target token, differentiable, in bounded memory.

    Args:
        hidden_ND: final hidden states, one for each token to score.
        head: the model's output embeddings; under autocast the product runs in its dtype.
        targets_N: the tokens.
        shape: scale, cap and temperature of the logits.
    """
    weight_VD: Tensor = head.weight
    bias_V: Tensor | None = head.bias
    device = hidden_ND.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden_ND, weight_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
        bias_V = None if bias_V is None else bias_V.to(dtype)
    with torch.autocast(device, enabled=False):
        logprobs_N: Tensor = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
            hidden_ND, weight_VD, bias_V, targets_N, shape
        )
    return logprobs_N
