from functools import partial

import pytest
import torch

from mulligan.config import Consolidate
from mulligan.engines.local.engine import LocalEngine
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.found import Found
from mulligan.errors import MulliganError
from mulligan.logprobs.divergence import next_logits
from mulligan.models.load import load_model
from mulligan.models.policies import FullPolicy
from mulligan.trainer.consolidate import Example, consolidate, distillation_loss, examples_of
from tiny import tiny_recipe

PROMPT, CONTEXT, ANSWER = (5, 6, 7), (5, 6, 7, 20, 21, 22), (30, 31)


def retry(problem, sample, answer, context=CONTEXT):
    return Found(problem, "retry", sample, PROMPT, context, answer)


def solved(problem):
    return Found(problem, "first_try", 0, PROMPT, PROMPT, ANSWER)


def test_the_answers_of_a_problem_share_a_weight_and_the_same_one_counts_once():
    found = [
        retry("a", 0, (1,), (9,)),
        retry("a", 1, (1,), (8,)),
        retry("a", 3, (2,)),
        retry("b", 2, (1,)),
    ]
    assert examples_of(found, 0.0, seed=0) == [
        Example(PROMPT, (9,), (1,), 0.5),
        Example(PROMPT, CONTEXT, (2,), 0.5),
        Example(PROMPT, CONTEXT, (1,), 1.0),
    ]


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 2), (0.5, 6), (0.9, 9)])
def test_solved_problems_make_up_their_share_as_far_as_there_are_any(share, count):
    found = [solved(f"s{n}") for n in range(9)] + [retry(f"f{n}", 0, (n,)) for n in range(6)]
    kept = [each for each in examples_of(found, share, seed=3) if each.context_ids == PROMPT]
    assert len(kept) == count
    assert all(each.weight == 1.0 for each in kept)


@pytest.fixture
def loaded(tiny_llama):
    return load_model(str(tiny_llama), "float32", "cpu")


def test_the_loss_is_the_divergence_of_the_bare_question_from_the_reflected_one(loaded):
    model, _ = loaded
    teacher = partial(next_logits, model, CONTEXT, ANSWER)
    loss = distillation_loss(model, teacher, PROMPT, ANSWER, 0.5)
    by_hand = 0.0
    with torch.no_grad():
        student = (model(torch.tensor([[*PROMPT, *ANSWER]])).logits[0, 2:4] / 0.5).softmax(-1)
        after = (model(torch.tensor([[*CONTEXT, *ANSWER]])).logits[0, 5:7] / 0.5).softmax(-1)
    for p_V, q_V in zip(student, after, strict=True):
        by_hand += sum(float(p) * float((p / q).log()) for p, q in zip(p_V, q_V, strict=True))
    assert loss.item() == pytest.approx(by_hand, rel=1e-4)
    assert loss.item() > 0.001


def test_a_solved_problem_pulls_nowhere_until_the_policy_has_moved(loaded):
    model, _ = loaded
    teacher = partial(next_logits, model, PROMPT, ANSWER)
    loss = distillation_loss(model, teacher, PROMPT, ANSWER, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert all(float(p.grad.abs().max()) < 1e-5 for p in model.parameters() if p.grad is not None)


def trained(tiny_llama, examples, **settings):
    model, tokenizer = load_model(str(tiny_llama), "float32", "cpu")
    steps = []
    consolidate(
        FullPolicy(model),
        LocalEngine(model, tokenizer),
        Conversations(tokenizer, "Why?"),
        examples,
        tiny_recipe(tiny_llama),
        Consolidate(**({"batch": 2, "learning_rate": 1e-3, "epochs": 2} | settings)),
        report=steps.append,
    )
    return model, steps


EXAMPLES = [
    Example(PROMPT, CONTEXT, ANSWER, 0.5),
    Example(PROMPT, CONTEXT, (32,), 0.5),
    Example((8, 9), (8, 9), (33, 34), 1.0),
]


def test_the_first_supervised_loss_is_the_weighted_mean_over_the_batch(tiny_llama, loaded):
    model, _ = loaded
    _, steps = trained(tiny_llama, EXAMPLES, batch=3, epochs=1)
    total = 0.0
    for each in EXAMPLES:
        ids = torch.tensor([[*each.prompt_ids, *each.answer_ids]])
        with torch.no_grad():
            logprobs = model(ids).logits[0].log_softmax(-1)
        first = len(each.prompt_ids) - 1
        total -= each.weight * sum(
            float(logprobs[first + at, token]) for at, token in enumerate(each.answer_ids)
        )
    assert steps[0].loss == pytest.approx(total / (0.5 * 2 + 0.5 * 1 + 1.0 * 2), rel=1e-5)
    assert (steps[0].trained, steps[0].sampled) == (5, 0)


@pytest.mark.parametrize("method", ["sft", "distill"])
def test_the_same_seed_consolidates_to_the_same_bits(tiny_llama, method):
    one, steps = trained(tiny_llama, EXAMPLES, method=method)
    other, again = trained(tiny_llama, EXAMPLES, method=method)
    assert steps == again
    assert [line.step for line in steps] == [1, 2, 3, 4]
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_distilling_counts_the_answers_that_it_draws(tiny_llama):
    _, steps = trained(tiny_llama, EXAMPLES, method="distill", batch=3, epochs=1)
    assert steps[0].sampled == steps[0].trained >= 3
    assert steps[0].loss > 0


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")
def test_a_loss_that_is_not_finite_stops_it(tiny_llama, monkeypatch):
    broken = "mulligan.trainer.consolidate.reverse_kl"
    monkeypatch.setattr(broken, lambda student, teacher: student.sum() * float("nan"))
    with pytest.raises(MulliganError, match=r"Step 1 of the consolidation gave a loss of nan"):
        trained(tiny_llama, EXAMPLES, method="distill")
