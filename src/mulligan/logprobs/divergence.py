"""How far models' next-token distributions are apart, over the full vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mulligan.types import TokenIds

_POSITIONS = 256
"""Positions compared at once: bounds memory at 256 rows of the vocabulary for each model."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Sums over the compared tokens of one text; all in nats."""

    tokens: int
    surprise_M: tuple[float, ...]
    """Each model's negative log-probability of the tokens."""
    divergence_MM: tuple[tuple[float, ...], ...]
    """``[i][j]``: the sum over positions of KL(model i || model j) of the next token."""


@torch.no_grad()
def compare_models(
    models: Sequence[PreTrainedModel], context: TokenIds, continuation: TokenIds
) -> Compared:
    """Compare models on the tokens of a continuation, each with everything before it.

    Averaged over continuations that model i wrote at temperature 1, ``divergence_MM[i][j]`` is the
    divergence KL(i || j) of whole answers: the chain rule, with each position's expectation
    computed over the vocabulary instead of sampled.

    Args:
        models: at least two, with one vocabulary.
        context: at least one token.
        continuation: the tokens that are compared.
    """
    ids_1T = torch.tensor([(*context, *continuation)], device=models[0].device)
    targets_R = ids_1T[0, len(context) :]
    hidden = [_logits(model, ids_1T, len(continuation)) for model in models]
    count = len(models)
    surprise_M = torch.zeros(count, dtype=torch.float64)
    divergence_MM = torch.zeros(count, count, dtype=torch.float64)
    for start in range(0, len(continuation), _POSITIONS):
        rows = slice(start, start + _POSITIONS)
        logprobs = [logits_RV[rows].float().log_softmax(-1) for logits_RV in hidden]
        for i, first_RV in enumerate(logprobs):
            chosen_R = first_RV.gather(1, targets_R[rows].unsqueeze(1))
            surprise_M[i] -= chosen_R.sum().double().cpu()
            probabilities_RV = first_RV.exp()
            for j, second_RV in enumerate(logprobs):
                if i != j:
                    divergence_MM[i, j] += _divergence(probabilities_RV, first_RV, second_RV)
    return Compared(
        len(continuation),
        tuple(surprise_M.tolist()),
        tuple(tuple(row) for row in divergence_MM.tolist()),
    )


def next_logits(model: PreTrainedModel, context: TokenIds, continuation: TokenIds) -> Tensor:
    """Return the float32 logits that predict a continuation, shape (tokens, vocabulary)."""
    ids_1T = torch.tensor([(*context, *continuation)], device=model.device)
    return _logits(model, ids_1T, len(continuation)).float()


def reverse_kl(student_RV: Tensor, teacher_RV: Tensor) -> Tensor:
    """Return the sum over positions of KL(student || teacher), in nats, with its gradient.

    Args:
        student_RV: logits, shape (positions, vocabulary).
        teacher_RV: the same of the teacher.
    """
    student_RV, teacher_RV = student_RV.log_softmax(-1), teacher_RV.log_softmax(-1)
    return (student_RV.exp() * (student_RV - teacher_RV)).sum()


def _logits(model: PreTrainedModel, ids_1T: Tensor, count: int) -> Tensor:
    """Return the logits that predict the last ``count`` tokens, shape (count, vocabulary)."""
    made = model(ids_1T[:, :-1], use_cache=False, logits_to_keep=count)
    logits_RV: Tensor = made.logits[0, -count:]
    return logits_RV


def _divergence(probabilities_RV: Tensor, first_RV: Tensor, second_RV: Tensor) -> Tensor:
    """Return the sum over rows of KL(first || second); 0 log 0 is 0."""
    terms_RV = (first_RV - second_RV).mul_(probabilities_RV)  # in place: memory is what takes time
    return terms_RV.masked_fill_(probabilities_RV == 0, 0.0).sum().double().cpu()
