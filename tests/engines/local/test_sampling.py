import pytest
import torch

from mulligan.engines.local import sampling
from mulligan.engines.local.sampling import draw, uniforms


def test_a_uniform_picks_the_token_whose_share_of_the_sum_it_falls_in():
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log().expand(4, -1)
    tokens, logprobs = draw(logits, 1.0, torch.tensor([0.05, 0.25, 0.59, 0.999]).double())
    assert tokens.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(logprobs, torch.tensor([0.1, 0.2, 0.3, 0.4]).log())


@pytest.mark.parametrize("vocabulary", [1, 127, 128, 129, 1000])
def test_every_vocabulary_size_gives_tokens_within_it(vocabulary):
    logits = torch.randn(500, vocabulary, generator=torch.Generator().manual_seed(0))
    numbers = torch.linspace(0, 1 - 2**-53, 500, dtype=torch.float64)
    tokens, logprobs = draw(logits, 1.0, numbers)
    assert tokens.min() >= 0
    assert tokens.max() < vocabulary
    expected = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.full((1000, 300), -torch.inf)
    logits[:, [0, 7, 140, 299]] = 0.0
    numbers = torch.linspace(0, 1, 1000, dtype=torch.float64)
    tokens, _ = draw(logits, 0.7, numbers)
    assert set(tokens.tolist()) == {0, 7, 140, 299}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_shares_of_evenly_spread_uniforms_are_the_probabilities(temperature):
    logits = torch.randn(1, 400, generator=torch.Generator().manual_seed(1)) * 2
    count = 20_000
    numbers = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    tokens, _ = draw(logits.expand(count, -1), temperature, numbers)
    shares = torch.bincount(tokens, minlength=400) / count
    expected = (logits[0] / temperature).softmax(-1)
    torch.testing.assert_close(shares, expected, atol=1.01 / count, rtol=0)


def test_temperature_zero_takes_the_most_likely_token_with_the_models_own_logprob():
    logits = torch.tensor([[0.5, 2.0, -1.0], [3.0, 0.0, 1.0]])
    tokens, logprobs = draw(logits, 0.0, torch.zeros(2, dtype=torch.float64))
    assert tokens.tolist() == [1, 0]
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).amax(-1))


@pytest.mark.parametrize("vocabulary", [1, 127, 128, 300])
def test_of_equally_likely_tokens_temperature_zero_takes_the_first(vocabulary):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randint(-9, -5, (200, vocabulary), generator=generator).bfloat16()
    tokens, _ = draw(logits, 0.0, torch.zeros(200, dtype=torch.float64))
    firsts = [row.index(max(row)) for row in logits.tolist()]
    assert tokens.tolist() == firsts


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("at_once", [1, 700, 10_000])
def test_rows_drawn_in_parts_give_the_bits_of_those_drawn_together(
    temperature, at_once, monkeypatch
):
    logits = torch.randn(7, 300, generator=torch.Generator().manual_seed(4)).bfloat16()
    numbers = torch.linspace(0, 0.99, 7, dtype=torch.float64)
    together = draw(logits, temperature, numbers)
    monkeypatch.setattr(sampling, "_AT_ONCE", at_once)
    parted = draw(logits, temperature, numbers)
    assert torch.equal(parted[0], together[0])
    assert torch.equal(parted[1], together[1])


def test_half_precision_logits_are_summed_in_full_precision():
    logits = torch.randn(3, 5000, generator=torch.Generator().manual_seed(2)).bfloat16()
    tokens, logprobs = draw(logits, 1.0, torch.tensor([0.1, 0.5, 0.9]).double())
    expected = logits.float().log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)


def test_each_row_has_a_stream_of_its_own():
    numbers = uniforms(3, [(0, 0), (0, 1), (1, 0), (1, 1)], 50)
    assert len({tuple(row) for row in numbers}) == 4
    assert (uniforms(3, [(1, 0)], 20) == numbers[2:3, :20]).all()
    assert (uniforms(4, [(1, 0)], 50) != numbers[2]).all()
    assert numbers.min() >= 0
    assert numbers.max() < 1
