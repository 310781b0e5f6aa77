"""The loss reaches the model through the predictions of reflection tokens and nothing else."""

import pytest
import torch

from hand_made import make_loss
from mulligan.logprobs.shared_prompt import PATHS
from mulligan.objectives.advantages import group_advantages
from mulligan.objectives.base import Scores
from tiny_models import make_ids


def gradient_where_tokens_are_predicted(model, path, prompt_ids, completions, advantages_G):
    """Gradient of the loss at every final hidden state, [rows, T, D]; each predicts one token."""
    kept = []
    hook = model.base_model.register_forward_hook(
        lambda module, args, output: kept.append(output.last_hidden_state)
    )
    logprobs_GR, mask_GR = PATHS[path](model, prompt_ids, completions)
    hook.remove()
    dapo = make_loss("dapo", kl_beta=0.1 if any(advantages_G) else 0.0)
    reference_GR = logprobs_GR.detach() - 0.5
    scores = Scores(logprobs_GR, mask_GR, advantages_G, reference_logprobs_GR=reference_GR)
    loss, _ = dapo(scores, sum(map(len, completions)))
    return torch.autograd.grad(loss, kept[0])[0]


def nonzero(gradient):
    return gradient.abs().sum(-1) > 0


def test_in_the_stream_only_what_predicts_a_reflection_token_has_a_gradient(model, prompt_ids):
    completions = [make_ids(3, 1), make_ids(5, 2), make_ids(1, 3)]
    gradient = gradient_where_tokens_are_predicted(
        model, "shared", prompt_ids, completions, [1.0, -0.5, -0.5]
    )
    P = len(prompt_ids)
    # The prompt's last token predicts every first token; then come 2 + 4 + 0 tokens.
    assert nonzero(gradient)[0].tolist() == [False] * (P - 1) + [True] * 7


def test_in_plain_rows_prompt_padding_and_last_tokens_have_a_gradient_of_exactly_zero(
    model, prompt_ids
):
    completions = [make_ids(3, 1), make_ids(5, 2)]
    gradient = gradient_where_tokens_are_predicted(
        model, "plain", prompt_ids, completions, [1.0, -1.0]
    )
    before = [False] * (len(prompt_ids) - 1)
    assert nonzero(gradient).tolist() == [
        before + [True] * 3 + [False] * 3,
        before + [True] * 5 + [False],
    ]


@pytest.mark.parametrize("path", ["shared", "plain"])
def test_equal_rewards_leave_no_gradient_at_all(model, path, prompt_ids):
    completions = [make_ids(3, 1), make_ids(5, 2)]
    gradient = gradient_where_tokens_are_predicted(
        model, path, prompt_ids, completions, group_advantages([0.1, 0.1])
    )
    assert not gradient.any()


def test_an_episode_without_advantage_has_no_gradient_on_its_tokens(model, prompt_ids):
    completions = [make_ids(4, 1), make_ids(4, 2), make_ids(4, 3)]
    logprobs_GR, mask_GR = PATHS["shared"](model, prompt_ids, completions)
    scores = Scores(logprobs_GR, mask_GR, group_advantages([0.0, 0.5, 1.0]))
    loss, _ = make_loss("dapo")(scores, 12.0)
    (gradient_GR,) = torch.autograd.grad(loss, logprobs_GR)
    assert nonzero(gradient_GR.unsqueeze(-1)).tolist() == [[True] * 4, [False] * 4, [True] * 4]
