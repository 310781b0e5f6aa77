import pytest
import torch

from mulligan.config import Sft
from mulligan.episodes.conversation import Conversations
from mulligan.errors import MulliganError
from mulligan.logprobs.shared_prompt import GroupScorer
from mulligan.models.load import load_model
from mulligan.trainer import update
from mulligan.trainer.sft import Lesson, batch_losses, common_prefix, fine_tune, lessons_of
from mulligan.types import Demonstration, Problem
from parity_task import Parity
from template_families import FAMILIES
from tiny import run_cli, write_recipe

PROBLEM = Problem.create("Say something even.", {})
SECOND_CHANCE = Demonstration(PROBLEM, "a", "Odd.", "bb")


@pytest.fixture
def model(tiny_llama):
    return load_model(str(tiny_llama), "float32", "cpu")


@pytest.fixture
def speak(tiny_tokenizer):
    return Conversations(tiny_tokenizer, "Why?")


def teach(model, speak, demonstrations, seed=0, tokens_at_once=16384, **settings):
    steps = []
    fine_tune(
        model,
        speak,
        demonstrations,
        Sft(**({"batch": 4, "learning_rate": 1e-2} | settings)),
        seed=seed,
        dtype="float32",
        first_step_learns=True,
        tokens_at_once=tokens_at_once,
        report=steps.append,
    )
    return steps


def words(tokenizer, made):
    """The text that a lesson trains on."""
    return tokenizer.decode([t for t, on in zip(made.token_ids, made.trained, strict=True) if on])


@pytest.mark.parametrize(
    ("demonstration", "settings", "trained"),
    [
        (Demonstration(PROBLEM, "bb"), {}, "bb<|im_end|>"),
        (SECOND_CHANCE, {}, "Odd.<|im_end|>bb<|im_end|>"),
        (SECOND_CHANCE, {"train_on_failed_attempt": True}, "a<|im_end|>Odd.<|im_end|>bb<|im_end|>"),
    ],
)
def test_the_loss_falls_on_the_models_own_turns(
    tiny_tokenizer, speak, demonstration, settings, trained
):
    [made] = lessons_of(speak, demonstration, Sft(**settings))
    assert words(tiny_tokenizer, made) == trained
    assert len(made.token_ids) == len(made.trained)


def test_where_the_template_rewrites_earlier_turns_each_trained_turn_is_a_lesson():
    tokenizer = FAMILIES["qwen3"].tokenizer()
    rewritten = Conversations(tokenizer, "Why?")
    made = lessons_of(rewritten, SECOND_CHANCE, Sft())
    assert [words(tokenizer, each) for each in made] == [
        "<think>\n\n</think>\n\nOdd.<|im_end|>",
        "<think>\n\n</think>\n\nbb<|im_end|>",
    ]
    prompts = [prompt for prompt, _ in rewritten.demonstration(SECOND_CHANCE)[1:]]
    assert [m.token_ids[: len(p)] for m, p in zip(made, prompts, strict=True)] == prompts


@pytest.mark.parametrize(
    ("ids", "shared"),
    [
        ([(1, 2, 3), (1, 2, 4, 5)], 2),
        ([(1, 2, 3), (1, 2, 3)], 2),
        ([(1, 2, 3, 4)], 3),
        ([(1, 2), (3, 2)], 0),
    ],
)
def test_lessons_share_what_they_begin_with_up_to_the_first_word_that_is_trained(ids, shared):
    lessons = [Lesson(each, (*[False] * (len(each) - 1), True)) for each in ids]
    assert common_prefix(lessons) == shared


def expected_loss(policy, batch):
    """Mean negative log-likelihood of the trained tokens, each lesson by itself."""
    total, tokens = 0.0, 0.0
    for each in batch:
        ids = torch.tensor([each.token_ids])
        with torch.no_grad():
            logprobs = policy(ids).logits[0, :-1].log_softmax(-1)
        taken = logprobs.gather(1, ids[0, 1:, None])[:, 0]
        on = torch.tensor(each.trained[1:])
        total -= each.weight * float(taken[on].sum())
        tokens += each.weight * int(on.sum())
    return pytest.approx(total / tokens, rel=1e-5)


def found_loss(policy, batch, max_tokens=16384):
    losses = batch_losses(GroupScorer(policy, max_tokens=max_tokens), batch)
    return sum(float(loss().detach()) for loss in losses)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("max_tokens", [150, 16384])
def test_the_loss_of_a_batch_is_the_mean_over_its_trained_tokens(model, speak, count, max_tokens):
    policy, _ = model
    demonstrations = Parity().demonstrations(count, 0)
    batch = [one for each in demonstrations for one in lessons_of(speak, each, Sft())]
    assert found_loss(policy, batch, max_tokens) == expected_loss(policy, batch)


def test_lessons_that_are_the_same_are_trained_on_whole(model, speak):
    batch = lessons_of(speak, SECOND_CHANCE, Sft()) * 2
    assert found_loss(model[0], batch) == expected_loss(model[0], batch)


def test_lessons_that_begin_differently_have_their_loss_too(model):
    batch = [Lesson((5, 6, 7), (False, True, True)), Lesson((9, 8), (False, True))]
    assert found_loss(model[0], batch) == expected_loss(model[0], batch)


def test_lessons_that_begin_differently_go_through_the_policy_in_one_pass(model):
    batch = [Lesson((5, 6, 7), (False, True, True)), Lesson((9, 8), (False, True))]
    scorer = GroupScorer(model[0])
    passes = {pack: len(batch_losses(scorer, batch, pack)) for pack in (True, False)}
    assert passes == {True: 1, False: 2}


def test_lessons_count_as_much_as_they_weigh(model):
    batch = [
        Lesson((5, 6, 7), (False, True, True), 0.25),
        Lesson((5, 8, 9, 7), (False, True, True, True), 0.5),
        Lesson((9, 8), (False, True)),
    ]
    assert found_loss(model[0], batch) == expected_loss(model[0], batch)
    even = [Lesson(each.token_ids, each.trained) for each in batch]
    assert found_loss(model[0], batch) != expected_loss(model[0], even)


def test_warming_up_teaches(model, speak):
    steps = teach(model[0], speak, list(Parity().demonstrations(48, 0)))
    assert [line.step for line in steps] == list(range(1, 13))
    assert steps[-1].loss < 0.75 * steps[0].loss


def test_the_same_seed_warms_up_to_the_same_weights(tiny_llama, speak):
    policies = [load_model(str(tiny_llama), "float32", "cpu")[0] for _ in range(3)]
    demonstrations = list(Parity().demonstrations(8, 0))
    steps = [teach(p, speak, demonstrations, s) for p, s in zip(policies, (1, 1, 2), strict=True)]
    assert steps[0] == steps[1] != steps[2]
    first, second, _ = (dict(p.named_parameters()) for p in policies)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_task_without_demonstrations_is_refused(model, speak):
    with pytest.raises(MulliganError, match=r"offers no demonstrations.*Leave `sft` out"):
        teach(model[0], speak, [])


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")
def test_a_loss_that_is_not_finite_stops_the_warm_up(model, speak):
    with torch.no_grad():
        next(model[0].parameters()).fill_(float("nan"))
    with pytest.raises(MulliganError, match=r"Step 1 gave a loss of nan.*Lower sft"):
        teach(model[0], speak, list(Parity().demonstrations(4, 0)))


def test_demonstrations_have_no_verdict_that_the_model_could_be_told(tiny_llama, tmp_path):
    recipe = write_recipe(tmp_path, tiny_llama, prompts__reflect="Wrong: {reason}.")
    outcome = run_cli("warmup", recipe, "--runs", tmp_path)
    assert outcome.code == 1
    assert "have no verdicts" in " ".join(outcome.err.split())


def test_a_warm_up_computes_activations_again_where_the_recipe_says_so(
    tiny_llama, tmp_path, monkeypatch
):
    asked, real = [], update.compute_activations_twice
    monkeypatch.setattr(
        update, "compute_activations_twice", lambda model: (asked.append(model), real(model))
    )
    recipe, weights = write_recipe(tmp_path, tiny_llama), []
    for name, twice in (("kept", "false"), ("again", "true")):
        settings = f"name={name}", f"train.gradient_checkpointing={twice}"
        outcome = run_cli("warmup", recipe, *settings, "--runs", tmp_path)
        assert outcome.code == 0, outcome.err
        weights.append((tmp_path / name / "warmed_up" / "model.safetensors").read_bytes())
    assert len(asked) == 1
    assert weights[0] == weights[1]
