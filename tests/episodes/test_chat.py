from dataclasses import replace

from mulligan.episodes.chat import ChatConversations
from mulligan.types import ChatPrompt, Completion, Problem

SPEAK = ChatConversations("Why?", "Again: {question}")
PROBLEM = Problem.create("2 + 5", {}, tools=[{"name": "add"}])


def said(text, **changes):
    return replace(Completion((), text, "stop", counted_tokens=3), **changes)


def roles_and_words(prompt):
    return [(message["role"], message["content"]) for message in prompt.messages]


def test_a_first_try_is_the_problem_and_its_tools():
    prompt = SPEAK.attempt(PROBLEM)
    assert roles_and_words(prompt) == [("user", "2 + 5")]
    assert prompt.tools == ({"name": "add"},)


def test_a_retry_follows_the_answer_and_the_reflection():
    prompt = SPEAK.retry(PROBLEM, said("8"), said("I added wrongly."))
    assert roles_and_words(prompt) == [
        ("user", "2 + 5"),
        ("assistant", "8"),
        ("user", "Why?"),
        ("assistant", "I added wrongly."),
        ("user", "Again: 2 + 5"),
    ]


def test_earlier_turns_are_told_without_their_thoughts():
    prompt = SPEAK.reflection(PROBLEM, said("<think>five, two</think>8"))
    assert roles_and_words(prompt)[1] == ("assistant", "8")
    understood = SPEAK.understand(said("<think>five, two</think>8"))
    assert (understood.text, understood.thoughts, understood.length) == ("8", "five, two", 3)
    assert SPEAK.understand(said("8", thoughts="told apart by the server")).text == "8"


def test_a_filler_has_as_many_dots_as_the_completion_has_tokens():
    assert SPEAK.filler(said("because")).text == " . . ."


def test_prompts_of_other_messages_are_other_prompts():
    one, same, other = (ChatPrompt([{"role": "user", "content": each}]) for each in "aab")
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != ()
