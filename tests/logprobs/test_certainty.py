import math

import pytest
import torch

from mulligan.logprobs.certainty import certainty_of
from tiny_models import VOCABULARY, make_ids, make_model


def test_self_certainty_is_the_mean_divergence_of_each_next_token_from_the_uniform_one():
    model = make_model("llama").eval()
    prompt, completion = make_ids(7, 1), make_ids(4, 2)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *completion]])).logits[0, 6:10]
    logprobs = logits.double().log_softmax(-1)
    uniform = -math.log(VOCABULARY)
    expected = (math.exp(uniform) * (uniform - logprobs)).sum(-1).mean()
    [found] = certainty_of(model)(prompt, [completion])
    assert found == pytest.approx(float(expected), rel=1e-5)
    assert found > 0


def test_a_model_that_knows_nothing_is_certain_of_nothing():
    model = make_model("qwen2").eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    assert certainty_of(model)(make_ids(3, 1), [make_ids(2, 2)]) == [pytest.approx(0, abs=1e-6)]
