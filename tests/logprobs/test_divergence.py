import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from mulligan.logprobs.divergence import compare_models, next_logits, reverse_kl
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


def test_the_divergence_of_a_student_from_its_teacher_by_hand():
    student = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log()
    teacher = torch.tensor([[0.25, 0.75], [0.25, 0.75]]).log() + 3.0  # logits, up to a constant
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert reverse_kl(student, teacher).item() == pytest.approx(by_hand, rel=1e-6)
    assert by_hand == pytest.approx(0.143841, abs=1e-6)


def test_its_gradient_is_p_times_the_log_ratio_less_the_divergence():
    logits = torch.tensor([[0.2, -0.4, 0.9]], requires_grad=True)
    teacher = torch.tensor([[0.1, 0.5, -0.3]])
    divergence = reverse_kl(logits, teacher)
    divergence.backward()
    student = logits.detach().log_softmax(-1)
    expected = student.exp() * (student - teacher.log_softmax(-1) - divergence.detach())
    torch.testing.assert_close(logits.grad, expected)


def test_the_logits_of_a_continuation_are_those_that_predict_it(models):
    context, continuation = make_ids(7, 1), make_ids(4, 2)
    found = next_logits(models[0], context, continuation)
    ids = torch.tensor([[*context, *continuation]])
    torch.testing.assert_close(found, models[0](ids).logits[0, len(context) - 1 : -1].float())
