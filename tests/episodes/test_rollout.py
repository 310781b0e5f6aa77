import pytest

from mulligan.engines.scripted import ScriptedEngine
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.rollout import answer, attempt, reflect, reflect_and_retry, try_afresh
from mulligan.types import Attempt, Failure, Problem, Sampling, Verdict
from tiny import said

REFLECT = "Why?"
PROBLEMS = [Problem.create(f"question {number}", {}) for number in range(3)]
WRITE = Sampling(0.9, 40, seed=11)
THINK = Sampling(0.9, 30, seed=12)


@pytest.fixture
def speak(tiny_tokenizer):
    return Conversations(tiny_tokenizer, REFLECT)


def judge(pairs):
    """Passes what says yes, fails what says no, and breaks on all else."""
    verdicts = {"yes": Verdict.right(), "no": Verdict.wrong()}
    return [verdicts.get(text, Verdict.error("broke")) for _, text in pairs]


def failure(tokenizer, speak, number):
    wrong = said(tokenizer, f"no {number}")
    tried = Attempt(PROBLEMS[number], speak.attempt(PROBLEMS[number]), wrong, Verdict.wrong())
    return Failure(f"failure-{number}", tried, "tiny", WRITE)


def rollout(tokenizer, speak, script, failures=2, group_size=3):
    engine = ScriptedEngine(script, tokenizer)
    stored = [failure(tokenizer, speak, number) for number in range(failures)]
    groups = reflect_and_retry(engine, speak, judge, stored, group_size, THINK, WRITE)
    return engine, groups


def test_attempts_at_a_problem_stand_together_in_order(tiny_tokenizer, speak):
    engine = ScriptedEngine(lambda prompt, i, j: f"{i}-{j}", tiny_tokenizer)
    tries = attempt(engine, speak, judge, PROBLEMS, 2, WRITE)
    assert [a.completion.text for a in tries] == ["0-0", "0-1", "1-0", "1-1", "2-0", "2-1"]
    assert [a.sample for a in tries] == [0, 1, 0, 1, 0, 1]
    assert [a.problem for a in tries] == [p for p in PROBLEMS for _ in range(2)]
    assert tries[2].prompt_ids == speak.attempt(PROBLEMS[1])


def test_each_answer_is_judged_against_its_own_problem(tiny_tokenizer, speak):
    seen = []

    def note(pairs):
        seen.extend((problem.id, text) for problem, text in pairs)
        return judge(pairs)

    engine = ScriptedEngine(["yes", "no", "yes"], tiny_tokenizer)
    judged = answer(engine, speak, note, PROBLEMS, [(1,), (2,), (3,)], WRITE)
    assert seen == [(p.id, t) for p, t in zip(PROBLEMS, ["yes", "no", "yes"], strict=True)]
    assert [verdict.passed for _, verdict in judged] == [True, False, True]


def passed(group):
    return [episode.verdict.passed for episode in group.episodes]


def test_each_reflection_has_its_own_retry_and_verdict(tiny_tokenizer, speak):
    texts = [f"r{number}" for number in range(6)] + ["yes", "no", "no", "no", "yes", "yes"]
    _, (first, second) = rollout(tiny_tokenizer, speak, texts)
    assert passed(first) == [True, False, False]
    assert passed(second) == [False, True, True]
    assert [e.reflection.text for e in first.episodes] == ["r0", "r1", "r2"]
    assert [e.reflection.text for e in second.episodes] == ["r3", "r4", "r5"]
    assert [e.failure_id for e in second.episodes] == ["failure-1"] * 3
    assert [e.sample for e in second.episodes] == [0, 1, 2]


def test_the_verifier_that_broke_is_left_out_and_never_counts_as_a_failure(tiny_tokenizer, speak):
    texts = ["r0", "r1", "r2", "r3", "r4", "r5", "yes", "broken", "no", "broken", "broken", "???"]
    engine, (first, second) = rollout(tiny_tokenizer, speak, texts)
    assert passed(first) == [True, False]
    assert [e.sample for e in first.episodes] == [0, 2]
    assert first.retry_prompts_G == (engine.calls[1].prompts[0], engine.calls[1].prompts[2])
    assert second.episodes == second.retry_prompts_G == ()


def test_reflections_alone_are_sampled_where_no_retry_is_wanted(tiny_tokenizer, speak):
    engine = ScriptedEngine([f"r{number}" for number in range(3)], tiny_tokenizer)
    [group] = reflect(engine, speak, [failure(tiny_tokenizer, speak, 0)], 3, THINK)
    assert [e.reflection.text for e in group.episodes] == ["r0", "r1", "r2"]
    assert {(e.retry, e.verdict) for e in group.episodes} == {(None, None)}


def test_a_problem_is_tried_afresh_as_if_it_had_never_been_tried(tiny_tokenizer, speak):
    engine = ScriptedEngine(["yes", "no", "broken", "no", "no", "yes"], tiny_tokenizer)
    stored = [failure(tiny_tokenizer, speak, number) for number in range(2)]
    first, second = try_afresh(engine, speak, judge, stored, 3, WRITE)
    assert [group.prompt_ids for group in (first, second)] == [
        speak.attempt(problem) for problem in PROBLEMS[:2]
    ]
    assert passed(first) == [True, False]
    assert passed(second) == [False, False, True]
    assert {e.reflection for e in first.episodes} == {None}
    assert [e.retry.text for e in second.episodes] == ["no", "no", "yes"]


def test_the_group_keeps_the_prompt_that_its_reflections_share(tiny_tokenizer, speak):
    engine, groups = rollout(tiny_tokenizer, speak, ["r"] * 6 + ["yes"] * 6)
    for group in groups:
        tried = group.failure.attempt
        assert group.prompt_ids == speak.reflection(tried.problem, tried.completion)
    assert engine.calls[0].prompts == tuple(group.prompt_ids for group in groups)
    assert engine.calls[0].n == 3
    assert engine.calls[0].sampling == THINK


def test_every_retry_goes_on_from_its_own_reflection(tiny_tokenizer, speak):
    texts = [f"r{number}" for number in range(6)] + ["yes"] * 6
    engine, groups = rollout(tiny_tokenizer, speak, texts)
    retries = iter(engine.calls[1].prompts)
    assert engine.calls[1].n == 1
    assert engine.calls[1].sampling == WRITE
    for group in groups:
        for episode in group.episodes:
            before = group.prompt_ids + episode.reflection.token_ids
            assert next(retries)[: len(before)] == before


def test_the_model_never_sees_the_verdict_or_the_reference(tiny_tokenizer, speak):
    problem = Problem.create("question", {"secret": "hidden-given"}, reference="hidden-reference")
    wrong = said(tiny_tokenizer, "no")
    verdict = Verdict.wrong("hidden-reason", "hidden-detail")
    tried = Attempt(problem, speak.attempt(problem), wrong, verdict)
    engine = ScriptedEngine(["r", "yes"], tiny_tokenizer)
    reflect_and_retry(engine, speak, judge, [Failure("f", tried, "m", WRITE)], 1, THINK, WRITE)
    shown = "".join(tiny_tokenizer.decode(p) for call in engine.calls for p in call.prompts)
    assert "hidden" not in shown


def test_the_reflection_request_may_tell_the_verifiers_reason_and_detail(tiny_tokenizer):
    problem = Problem.create("question", {})
    tried = Attempt(problem, (1,), said(tiny_tokenizer, "no"), Verdict.wrong("odd", "{reason} 3"))
    telling = Conversations(tiny_tokenizer, "Wrong ({reason}: {detail}). Why?")
    engine = ScriptedEngine(["r", "yes"], tiny_tokenizer)
    reflect_and_retry(engine, telling, judge, [Failure("f", tried, "m", WRITE)], 1, THINK, WRITE)
    for call in engine.calls:
        assert "Wrong (odd: {reason} 3). Why?" in tiny_tokenizer.decode(call.prompts[0])


def test_a_second_reflection_is_told_the_verdict_on_the_second_answer(tiny_tokenizer):
    telling = Conversations(tiny_tokenizer, "[{reason}]")
    words = [said(tiny_tokenizer, text) for text in ("a", "z", "b")]
    about = telling.about(Verdict.wrong("first"), Verdict.unparseable("second"))
    shown = tiny_tokenizer.decode(about.reflection(PROBLEMS[0], *words))
    assert 0 < shown.index("[first]") < shown.index("[second]")
    assert "[]" in tiny_tokenizer.decode(telling.reflection(PROBLEMS[0], words[0]))


def test_a_verifier_sees_the_answer_without_the_thoughts(tiny_tokenizer, speak):
    engine = ScriptedEngine(["<think>no, no</think>\n\nyes"], tiny_tokenizer)
    [tried] = attempt(engine, speak, judge, PROBLEMS[:1], 1, WRITE)
    assert tried.verdict.passed
    assert (tried.completion.text, tried.completion.thoughts) == ("yes", "no, no")
    assert tiny_tokenizer.decode(tried.completion.token_ids).startswith("<think>no, no</think>")


def test_an_unfinished_thought_is_unparseable_and_no_verifier_is_asked(tiny_tokenizer, speak):
    def refuse(pairs):
        assert pairs == []
        return []

    engine = ScriptedEngine(["<think>yes, no, ye"], tiny_tokenizer)
    [tried] = attempt(engine, speak, refuse, PROBLEMS[:1], 1, WRITE)
    assert tried.verdict == Verdict.unparseable("unfinished_thought")
    assert (tried.completion.text, tried.completion.thoughts) == ("", "yes, no, ye")


def test_the_thoughts_of_a_reflection_are_trained_on_as_they_were_sampled(tiny_tokenizer, speak):
    script = ["<think>Hm.</think>Add.", "<think>Oh.</think>Divide.", "yes", "no"]
    _, [group] = rollout(tiny_tokenizer, speak, script, failures=1, group_size=2)
    assert [e.reflection.text for e in group.episodes] == ["Add.", "Divide."]
    assert [tiny_tokenizer.decode(e.reflection.token_ids) for e in group.episodes] == [
        "<think>Hm.</think>Add.<|im_end|>",
        "<think>Oh.</think>Divide.<|im_end|>",
    ]


def test_a_retry_that_does_not_fit_the_context_is_left_out_of_its_group(tiny_tokenizer):
    roomy = Conversations(tiny_tokenizer, REFLECT)
    failed = failure(tiny_tokenizer, roomy, 0).attempt.completion
    short, long = said(tiny_tokenizer, "r"), said(tiny_tokenizer, "rr")
    limit = len(roomy.retry(PROBLEMS[0], failed, short)) + WRITE.max_tokens
    speak = Conversations(tiny_tokenizer, REFLECT, context=limit)
    engine, [group] = rollout(
        tiny_tokenizer, speak, [short.text, long.text, "yes"], failures=1, group_size=2
    )
    assert [e.reflection.text for e in group.episodes] == ["r"]
    assert passed(group) == [True]
    assert len(engine.calls[-1].prompts) == 1
