import pytest

from mulligan.engines.scripted import ScriptedEngine
from mulligan.episodes.chat import ChatConversations
from mulligan.episodes.conversation import Conversations
from mulligan.serving.second_chance import Method, solve, steps
from mulligan.types import Problem, Sampling, Verdict

PROBLEMS = [Problem.create(f"question {number}", {}) for number in range(3)]


@pytest.fixture
def method(tiny_tokenizer):
    """Makes a method from what the model says, in order."""

    def make(script, tries=2, reflect="Why?", context=None):
        return Method(
            ScriptedEngine(script, tiny_tokenizer),
            Conversations(tiny_tokenizer, reflect, context=context),
            judge,
            Sampling(0.9, 40, seed=1),
            Sampling(0.9, 30, seed=2),
            tries,
        )

    return make


def judge(pairs):
    """Passes what says yes, fails what says no, and breaks on all else."""
    verdicts = {"yes": Verdict.right(), "no": Verdict.wrong("said_no")}
    return [verdicts.get(text, Verdict.error("broke")) for _, text in pairs]


def kinds(solution):
    return [event.kind for event in solution.events]


def test_an_answer_that_passes_is_not_reflected_on(method):
    [solution] = solve(method(["yes"]), PROBLEMS[:1])
    assert kinds(solution) == ["attempt"]
    assert (solution.answer, solution.passed, solution.tries) == ("yes", True, 1)


def test_a_wrong_answer_is_reflected_on_and_tried_again(method):
    how = method(["no", "hm", "yes"])
    [solution] = solve(how, PROBLEMS[:1])
    first, thought, again = solution.events
    speak = how.conversations
    assert kinds(solution) == ["attempt", "reflection", "retry"]
    assert solution.answer == "yes"
    assert solution.tokens == sum(len(e.completion.token_ids) for e in solution.events) == 3 + 3 + 4
    assert [call.prompts[0] for call in how.engine.calls] == [
        speak.attempt(PROBLEMS[0]),
        speak.reflection(PROBLEMS[0], first.completion),
        speak.retry(PROBLEMS[0], first.completion, thought.completion),
    ]
    assert [call.sampling.max_tokens for call in how.engine.calls] == [40, 30, 40]
    assert len({call.sampling.seed for call in how.engine.calls}) == 3
    assert again.verdict.passed


def test_tries_end_where_none_is_left_and_the_last_answer_is_kept(method):
    [solution] = solve(method(["no", "hm", "no", "hm", "no"], tries=3), PROBLEMS[:1])
    assert kinds(solution) == ["attempt", "reflection", "retry", "reflection", "retry"]
    assert (solution.tries, solution.passed, solution.verdict.reason) == (3, False, "said_no")


def test_one_try_never_reflects(method):
    [solution] = solve(method(["no"], tries=1), PROBLEMS[:1])
    assert kinds(solution) == ["attempt"]


def test_an_answer_that_cannot_be_verified_is_not_taken_for_wrong(method):
    [solution] = solve(method(["perhaps"]), PROBLEMS[:1])
    assert kinds(solution) == ["attempt"]
    assert solution.verdict.status == "error"


def test_problems_are_answered_together_and_only_those_that_failed_go_on(method):
    how = method(["yes", "no", "no", "hm", "hmm", "yes", "no"])
    one, two, three = solve(how, PROBLEMS)
    assert [len(call.prompts) for call in how.engine.calls] == [3, 2, 2]
    assert [kinds(each) for each in (one, two, three)] == [
        ["attempt"],
        ["attempt", "reflection", "retry"],
        ["attempt", "reflection", "retry"],
    ]
    assert [each.passed for each in (one, two, three)] == [True, True, False]
    assert [event.completion.text for event in two.events] == ["no", "hm", "yes"]
    assert [event.completion.text for event in three.events] == ["no", "hmm", "no"]


def test_a_conversation_that_outgrows_the_context_keeps_its_last_verdict(method):
    how = method(["no"], context=80)
    [solution] = solve(how, PROBLEMS[:1])
    assert kinds(solution) == ["attempt", "reflection"]
    assert (solution.verdict.reason, solution.answer) == ("said_no", "no")


def test_the_reflection_request_may_tell_each_verdict(method, tiny_tokenizer):
    how = method(["no", "hm", "no", "hm", "yes"], tries=3, reflect="Why {reason}?")
    solve(how, PROBLEMS[:1])
    assert tiny_tokenizer.decode(how.engine.calls[3].prompts[0]).count("Why said_no?") == 2


def test_what_happens_is_told_step_by_step(method):
    told = [each[0].kind for each in steps(method(["no", "hm", "yes"]), PROBLEMS[:1])]
    assert told == ["attempt", "reflection", "retry"]


def test_a_server_that_takes_messages_is_asked_the_same(tiny_tokenizer):
    engine = ScriptedEngine(["no", "hm", "yes"], tiny_tokenizer)
    how = Method(engine, ChatConversations("Why?"), judge, Sampling(0, 9), Sampling(0, 9))
    [solution] = solve(how, PROBLEMS[:1])
    assert solution.passed
    assert [m["content"] for m in engine.calls[2].prompts[0].messages] == [
        "question 0",
        "no",
        "Why?",
        "hm",
        "question 0",
    ]
