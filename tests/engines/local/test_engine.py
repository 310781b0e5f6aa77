import copy
import logging
import random

import pytest
import torch

from engine_models import (
    EOS,
    VOCABULARY,
    NumberTokenizer,
    greedy_by_transformers,
    logprobs_by_transformers,
    random_ids,
    random_prompts,
    tiny_model,
)
from mulligan.engines.local import stream
from mulligan.engines.local.engine import LocalEngine
from mulligan.errors import MulliganError
from mulligan.types import Sampling

GREEDY = Sampling(temperature=0.0, max_tokens=10)


def engine_for(model, **options):
    return LocalEngine(model, NumberTokenizer(), **options)


def ids_of(completions):
    return [[c.token_ids for c in group] for group in completions]


def continuations(prompts, completions, seed=1, longest=9):
    """Every conversation so far with a few more tokens, as a reflection request would add."""
    rng = random.Random(seed)
    return [
        prompt + completion.token_ids + random_ids(rng, rng.randrange(1, longest))
        for prompt, group in zip(prompts, completions, strict=True)
        for completion in group
    ]


def prompts_with_one_beginning(count):
    rng = random.Random(0)
    system = random_ids(rng, 80)
    return [system + random_ids(rng, 10) for _ in range(count)]


@pytest.fixture
def computed_tokens(monkeypatch):
    """Counts the tokens that pass through the model."""
    counted = []
    forward = stream.Stream._forward

    def counting(self, tokens, layout, head):
        counted.append(len(tokens))
        return forward(self, tokens, layout, head)

    monkeypatch.setattr(stream.Stream, "_forward", counting)
    return counted


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma", "phi", "neox", "mistral"])
def test_greedy_tokens_are_those_of_generate(name):
    model = tiny_model(name)
    prompts = random_prompts(7)
    for prompt, group in zip(prompts, engine_for(model).generate(prompts, 2, GREEDY), strict=True):
        expected = greedy_by_transformers(model, prompt, GREEDY.max_tokens)
        assert [c.token_ids for c in group] == [expected, expected]


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma", "phi"])
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(
    ("prompts", "attempts"),
    [(random_prompts(4), 2), (prompts_with_one_beginning(6), 1)],
    ids=["different beginnings", "one beginning"],
)
def test_a_continued_conversation_gives_the_greedy_tokens_of_generate(name, n, prompts, attempts):
    model = tiny_model(name)
    engine = engine_for(model)
    first = engine.generate(prompts, attempts, GREEDY)
    second_prompts = continuations(prompts, first)
    second = engine.generate(second_prompts, n, GREEDY)
    third_prompts = continuations(second_prompts, second, seed=2)
    third = engine.generate(third_prompts, 1, GREEDY)
    for prompt, group in zip(second_prompts + third_prompts, second + third, strict=True):
        expected = greedy_by_transformers(model, prompt, GREEDY.max_tokens)
        assert [c.token_ids for c in group] == [expected] * len(group)


def test_the_samples_of_a_prompt_compute_it_once(computed_tokens):
    prompt = random_ids(random.Random(0), 40)
    engine_for(tiny_model(), eos_ids=()).generate([prompt, prompt], 8, Sampling(0.9, 5))
    assert sum(computed_tokens) == 39 + 5 * 16


def test_a_continuation_computes_only_its_new_tokens(computed_tokens):
    engine = engine_for(tiny_model(), eos_ids=())
    prompt = random_ids(random.Random(0), 40)
    group = engine.generate([prompt], 8, Sampling(0.9, 5))
    turn = random_ids(random.Random(1), 10)
    computed_tokens.clear()
    engine.generate([prompt + c.token_ids + turn for c in group[0]], 1, Sampling(0.9, 3, seed=1))
    # The last sampled token was never fed; it and the turn are new. Then two more tokens a row.
    assert sum(computed_tokens) == 8 * (1 + 10 + 2)


def test_two_different_continuations_of_one_answer_both_reuse_it(computed_tokens):
    engine = engine_for(tiny_model(), eos_ids=())
    prompts = [random_ids(random.Random(seed), 30) for seed in range(4)]
    attempts = engine.generate(prompts, 1, Sampling(0.9, 6))
    # The answer's last token was sampled but not computed yet; the second turn finds it computed.
    for start, new in ((8, 1 + 5), (9, 7)):
        turn = random_ids(random.Random(start), 5 if start == 8 else 7)
        longer = [p + a[0].token_ids + turn for p, a in zip(prompts, attempts, strict=True)]
        computed_tokens.clear()
        engine.generate(longer, 1, Sampling(0.9, 1))
        assert sum(computed_tokens) == 4 * new


def test_what_different_prompts_begin_with_is_computed_once(computed_tokens):
    engine = engine_for(tiny_model(), eos_ids=())
    engine.generate(prompts_with_one_beginning(5), 2, Sampling(0.9, 6))
    assert sum(computed_tokens) == 80 + 5 * 9 + 5 * 2 * 6


def test_a_prompt_that_only_begins_like_a_known_one_is_computed_from_where_they_part(
    computed_tokens,
):
    model = tiny_model()
    engine = engine_for(model)
    rng = random.Random(0)
    start = random_ids(rng, 20)
    engine.generate([start + random_ids(rng, 10)], 2, GREEDY)
    other = (*start, 3, *random_ids(rng, 8))
    computed_tokens.clear()
    [[completion]] = engine.generate([other], 1, GREEDY)
    assert completion.token_ids == greedy_by_transformers(model, other, GREEDY.max_tokens)
    assert computed_tokens[0] <= len(other) - 1 - 20


def test_what_was_generated_before_changes_no_result():
    model = tiny_model()
    engine = engine_for(model)
    prompts = random_prompts(6)
    sampling = Sampling(0.9, 12, seed=5)
    longer = continuations(prompts, engine.generate(prompts, 2, sampling))
    assert ids_of(engine.generate(longer, 2, sampling)) == ids_of(
        engine_for(model).generate(longer, 2, sampling)
    )


def test_rows_leave_when_they_end_and_the_others_go_on_as_if_alone(computed_tokens):
    model = tiny_model()
    prompts = random_prompts(12, seed=3)
    sampling = Sampling(1.5, 40, seed=1)
    eos = frozenset(range(0, VOCABULARY, 9))
    together = engine_for(model, eos_ids=eos).generate(prompts, 4, sampling)
    lengths = [len(c.token_ids) for group in together for c in group]
    assert min(lengths) < 5 < max(lengths)
    assert sum(computed_tokens) < 1.4 * (sum(lengths) + sum(map(len, prompts)))
    for row, group in enumerate(together):
        alone = engine_for(model, eos_ids=eos, memory_gib=2e-4)
        assert ids_of(alone.generate(prompts[: row + 1], 4, sampling))[row] == [
            c.token_ids for c in group
        ]


def test_a_completion_ends_with_its_stop_token_or_at_its_limit():
    engine = engine_for(tiny_model())
    for group in engine.generate(random_prompts(20), 4, Sampling(2.0, 25)):
        for completion in group:
            *body, last = completion.token_ids
            assert EOS not in body
            if completion.finish_reason == "stop":
                assert last == EOS
            else:
                assert len(completion.token_ids) == 25
                assert last != EOS


def test_both_finish_reasons_occur_in_a_long_run():
    engine = engine_for(tiny_model())
    groups = engine.generate(random_prompts(20), 4, Sampling(2.0, 25))
    assert {c.finish_reason for group in groups for c in group} == {"stop", "length"}


def test_little_memory_gives_the_same_samples_in_waves(caplog):
    model = tiny_model()
    prompts = random_prompts(9)
    sampling = Sampling(0.9, 10, seed=3)
    whole = engine_for(model).generate(prompts, 5, sampling)
    caplog.set_level(logging.INFO, "mulligan")
    caplog.clear()
    split = engine_for(model, memory_gib=4e-4).generate(prompts, 5, sampling)
    assert ids_of(split) == ids_of(whole)
    [line] = [r.message for r in caplog.records if "first wave" in r.message]
    assert not line.endswith("; 0 rows wait.")


def test_one_prompt_may_need_several_waves():
    model = tiny_model()
    [prompt] = random_prompts(1, seed=4)
    sampling = Sampling(0.9, 10, seed=3)
    whole = engine_for(model).generate([prompt], 40, sampling)
    assert ids_of(engine_for(model, memory_gib=1e-4).generate([prompt], 40, sampling)) == ids_of(
        whole
    )


def test_kept_keys_and_values_stay_within_the_memory_allowed():
    memory = 3e-4
    engine = engine_for(tiny_model(), memory_gib=memory)
    for seed in range(6):
        engine.generate(random_prompts(4, seed=seed), 2, Sampling(0.9, 10))
        assert sum(b.nbytes for b in engine._store.blocks()) <= memory * 2**30
    assert len(engine._store) > 0


def test_memory_for_less_than_one_row_is_an_error_that_says_what_is_needed():
    with pytest.raises(MulliganError, match="Raise memory_gib"):
        engine_for(tiny_model(), memory_gib=1e-6).generate(random_prompts(1), 1, GREEDY)


def test_following_new_weights_forgets_every_cache_and_raises_the_version():
    policy = tiny_model()
    engine = engine_for(policy)
    prompts = random_prompts(4)
    first = engine.generate(prompts, 2, GREEDY)
    other = tiny_model(seed=1)
    policy.load_state_dict(other.state_dict())
    engine.update_weights(policy, 7)
    assert engine.policy_version == 7
    longer = continuations(prompts, first)
    for prompt, [completion] in zip(longer, engine.generate(longer, 1, GREEDY), strict=True):
        assert completion.token_ids == greedy_by_transformers(other, prompt, GREEDY.max_tokens)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_copy_in_another_type_generates_with_the_weights_it_followed(dtype):
    policy = tiny_model()
    engine = engine_for(policy, dtype=dtype)
    prompts = random_prompts(5)
    before = ids_of(engine.generate(prompts, 1, GREEDY))
    other = tiny_model(seed=1)
    policy.load_state_dict(other.state_dict())
    assert ids_of(engine.generate(prompts, 1, GREEDY)) == before
    engine.update_weights(policy, 1)
    after = ids_of(engine.generate(prompts, 1, GREEDY))
    assert after == ids_of(engine_for(other, dtype=dtype).generate(prompts, 1, GREEDY))
    assert after != before
    assert {p.dtype for p in policy.parameters()} == {torch.float32}


def test_following_a_model_of_another_shape_names_the_parameter():
    engine = engine_for(tiny_model("qwen2"), dtype=torch.float64)
    with pytest.raises(MulliganError, match=r"k_proj\.bias"):
        engine.update_weights(tiny_model("llama"), 1)


def test_generating_leaves_the_policy_as_it_was():
    policy = tiny_model().train()
    attention = policy.config._attn_implementation
    weights = copy.deepcopy(policy.state_dict())
    engine_for(policy).generate(random_prompts(2), 2, GREEDY)
    assert policy.training
    assert policy.config._attn_implementation == attention
    assert all(torch.equal(weights[name], w) for name, w in policy.state_dict().items())
    assert all(p.requires_grad for p in policy.parameters())


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma"])
def test_logprobs_are_those_of_a_plain_forward_pass(name, temperature):
    model = tiny_model(name)
    engine = engine_for(model)
    prompts = random_prompts(4)
    sampling = Sampling(temperature, 10)
    first = engine.generate(prompts, 2, sampling)
    longer = continuations(prompts, first)
    second = engine.generate(longer, 1, sampling)
    for prompt, group in zip(prompts + longer, first + second, strict=True):
        for c in group:
            expected = logprobs_by_transformers(model, prompt, c.token_ids, temperature or 1.0)
            torch.testing.assert_close(torch.tensor(c.logprobs), expected, atol=1e-4, rtol=0)


def test_sampled_tokens_follow_the_models_distribution_at_a_temperature():
    model = tiny_model()
    prompt = random_ids(random.Random(2), 12)
    samples, temperature = 4000, 1.7
    engine = engine_for(model, eos_ids=())
    [group] = engine.generate([prompt], samples, Sampling(temperature, 1, seed=11))
    counts = torch.bincount(torch.tensor([c.token_ids[0] for c in group]), minlength=VOCABULARY)
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]
    expected = (logits / temperature).softmax(-1) * samples
    common = expected >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]]).double()
    wanted = torch.cat([expected[common], expected[~common].sum()[None]]).double()
    statistic = ((observed - wanted) ** 2 / wanted).sum().item()
    freedom = int(common.sum())
    # Five standard deviations of a chi-square: a wrong temperature is off by hundreds.
    assert freedom > 10
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


def test_a_rows_samples_do_not_depend_on_how_many_are_drawn_beside_it():
    engine = engine_for(tiny_model())
    prompts = random_prompts(5)
    few = engine.generate(prompts[:2], 2, Sampling(0.9, 10, seed=4))
    many = engine.generate(prompts, 6, Sampling(0.9, 10, seed=4))
    assert ids_of(few) == [group[:2] for group in ids_of(many)[:2]]


def test_other_seeds_and_other_samples_draw_other_tokens():
    engine = engine_for(tiny_model())
    [prompt] = random_prompts(1, seed=9)
    [group] = engine.generate(
        [
            prompt,
        ],
        4,
        Sampling(1.5, 12, seed=1),
    )
    [other] = engine.generate(
        [
            prompt,
        ],
        4,
        Sampling(1.5, 12, seed=2),
    )
    assert len({c.token_ids for c in (*group, *other)}) == 8


def test_the_context_is_that_of_the_models_configuration():
    assert LocalEngine(tiny_model(), NumberTokenizer()).context == 256


def test_a_prompt_longer_than_the_context_is_an_error_with_both_lengths():
    with pytest.raises(MulliganError, match=r"250 tokens.*max_tokens=10.*context of 256"):
        engine_for(tiny_model()).generate([(5,) * 250], 1, GREEDY)


def test_a_prompt_that_just_fits_the_context_is_generated():
    model = tiny_model()
    prompt = random_ids(random.Random(0), 246)
    [[completion]] = engine_for(model).generate([prompt], 1, GREEDY)
    assert completion.token_ids == greedy_by_transformers(model, prompt, 10)


def test_an_empty_prompt_is_an_error():
    with pytest.raises(MulliganError, match="Prompt 1 is empty"):
        engine_for(tiny_model()).generate([(5,), ()], 1, GREEDY)


def test_no_prompts_and_no_samples_give_nothing():
    engine = engine_for(tiny_model())
    assert engine.generate([], 4, GREEDY) == []
    assert engine.generate([(5,), (6,)], 0, GREEDY) == [[], []]


@pytest.mark.parametrize("changes", [{"max_tokens": 0}, {"temperature": -1.0}])
def test_impossible_sampling_is_an_error(changes):
    values = {"temperature": 0.9, "max_tokens": 4} | changes
    with pytest.raises(MulliganError, match="must"):
        engine_for(tiny_model()).generate([(5,)], 1, Sampling(**values))


def test_a_window_shorter_than_the_sequences_is_said_once_and_generated_plainly(
    caplog, computed_tokens
):
    model = tiny_model("mistral")
    engine = engine_for(model)
    prompts = random_prompts(5, longest=30, seed=1)
    assert max(map(len, prompts)) > 16
    for prompt, [completion] in zip(prompts, engine.generate(prompts, 1, GREEDY), strict=True):
        assert completion.token_ids == greedy_by_transformers(model, prompt, GREEDY.max_tokens)
    engine.generate(prompts, 1, GREEDY)
    [warning] = [r.message for r in caplog.records if "plainly" in r.message]
    assert "sliding window of 16" in warning
    assert computed_tokens == []


def test_a_window_longer_than_the_sequences_takes_the_fast_path(computed_tokens):
    model = tiny_model("mistral")
    [[completion]] = engine_for(model).generate([(5, 6, 7)], 1, Sampling(0.0, 5))
    assert completion.token_ids == greedy_by_transformers(model, (5, 6, 7), 5)
    assert computed_tokens


def test_the_plain_path_draws_the_samples_of_the_fast_one():
    fast, slow = (
        tiny_model("mistral", sliding_window=None),
        tiny_model("mistral", sliding_window=64),
    )
    prompts = random_prompts(6)
    plain = engine_for(slow)
    plain._examination = plain_examination()
    sampling = Sampling(0.9, 10, seed=8)
    assert ids_of(plain.generate(prompts, 3, sampling)) == ids_of(
        engine_for(fast).generate(prompts, 3, sampling)
    )


def plain_examination():
    from mulligan.engines.local.compatibility import Examination

    return Examination(token_bytes=1024, reason="the test wants it", pads=True)
