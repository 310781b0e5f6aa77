import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from mulligan.logprobs.divergence import compare_models
from tiny_models import make_ids, make_model


@pytest.fixture(scope="module")
def models():
    first = make_model("llama").eval()
    second = make_model("llama").eval()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.manual_seed(3)))
    return first, second


def test_both_directions_and_the_surprise_equal_plain_distributions(models, monkeypatch):
    monkeypatch.setattr("mulligan.logprobs.divergence._POSITIONS", 4)  # several slices
    context, continuation = make_ids(7, 1), make_ids(11, 2)

    found = compare_models(models, context, continuation)

    ids = torch.tensor([[*context, *continuation]])
    with torch.no_grad():
        first, second = (
            Categorical(logits=model(ids).logits[0, len(context) - 1 : -1]) for model in models
        )
    assert found.tokens == 11
    expected = kl_divergence(first, second).sum().item()
    assert found.divergence_MM[0][1] == pytest.approx(expected, rel=1e-4)
    assert found.divergence_MM[1][0] == pytest.approx(
        kl_divergence(second, first).sum().item(), rel=1e-4
    )
    surprise = -first.log_prob(ids[0, len(context) :]).sum().item()
    assert found.surprise_M[0] == pytest.approx(surprise, rel=1e-5)


def test_a_model_is_not_apart_from_itself(models):
    found = compare_models([models[0], models[0]], make_ids(3, 1), make_ids(5, 2))

    assert found.divergence_MM == ((0.0, 0.0), (0.0, 0.0))


def test_a_token_that_is_impossible_for_a_model_is_not_a_nan(models):
    certain = make_model("llama").eval()
    head = certain.get_output_embeddings()
    with torch.no_grad():
        head.weight.mul_(2000.0)  # probabilities of all tokens but one underflow to zero

    found = compare_models([certain, models[0]], make_ids(3, 1), make_ids(5, 2))

    assert all(math.isfinite(each) for row in found.divergence_MM for each in row)
