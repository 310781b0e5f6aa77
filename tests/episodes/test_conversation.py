import itertools
import json
import logging

import pytest

from mulligan.episodes.conversation import Conversations, question
from mulligan.errors import MulliganError
from mulligan.models.load import load_tokenizer
from mulligan.types import Completion, Demonstration, Problem
from tiny import CHATML, make_tokenizer, said

REFLECT = "Wrong. Why?"
PROBLEM = Problem.create("Make 7 from 3 and 4.", {})
SYSTEM = Problem.create(
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Make 7."}], {}
)
TOOL = {"type": "function", "function": {"name": "book", "description": "Books a room."}}
CALL = Problem.create("Book a room.", {}, tools=[TOOL])

DROPS_EARLIER_ANSWERS = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '<|im_start|>user\n' + message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)
THINKS_FIRST = CHATML.replace("assistant\n", "assistant\n<think>\n")
TAKES_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}" + CHATML
REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + CHATML
)


@pytest.fixture
def speak(tiny_tokenizer):
    return Conversations(tiny_tokenizer, REFLECT)


def whole(tokenizer, messages, **options):
    """The plain rendering of a whole conversation, tokenised at once."""
    text = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False, **options
    )
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def conversation(problem, *turns):
    """Messages of a problem followed by assistant and user in turn."""
    roles = ("assistant", "user")
    return [*problem.messages] + [
        {"role": roles[number % 2], "content": text} for number, text in enumerate(turns)
    ]


@pytest.mark.parametrize("problem", [PROBLEM, SYSTEM])
def test_every_prompt_equals_the_plain_rendering_where_answers_tokenise_to_themselves(
    tiny_tokenizer, speak, problem
):
    check_against_plain_rendering(tiny_tokenizer, speak, problem)


@pytest.mark.slow
@pytest.mark.parametrize("problem", [PROBLEM, SYSTEM])
def test_every_prompt_equals_the_plain_rendering_with_a_real_tokenizer(problem):
    tokenizer = load_tokenizer("smollm2-135m")
    check_against_plain_rendering(tokenizer, Conversations(tokenizer, REFLECT), problem)


def check_against_plain_rendering(tokenizer, speak, problem):
    answer, reflection = said(tokenizer, "3 * 4 = 7"), said(tokenizer, "I multiplied.")
    asked = question(problem)
    assert speak.attempt(problem) == whole(tokenizer, conversation(problem))
    assert speak.reflection(problem, answer) == whole(
        tokenizer, conversation(problem, "3 * 4 = 7", REFLECT)
    )
    assert speak.retry(problem, answer, reflection) == whole(
        tokenizer, conversation(problem, "3 * 4 = 7", REFLECT, "I multiplied.", asked)
    )
    assert speak.retry_without_reflection(problem, answer) == whole(
        tokenizer, conversation(problem, "3 * 4 = 7", asked)
    )


def test_each_prompt_goes_on_with_the_tokens_before_it(tiny_tokenizer, speak):
    answer, reflection = said(tiny_tokenizer, "12"), said(tiny_tokenizer, "I multiplied.")
    first = speak.attempt(PROBLEM)
    second = speak.reflection(PROBLEM, answer)
    third = speak.retry(PROBLEM, answer, reflection)
    assert second[: len(first + answer.token_ids)] == first + answer.token_ids
    assert third[: len(second + reflection.token_ids)] == second + reflection.token_ids


def test_sampled_ids_travel_even_where_their_text_would_tokenise_otherwise(tiny_tokenizer, speak):
    ids = (145, 247, 76, 140, tiny_tokenizer.eos_token_id)
    text = tiny_tokenizer.decode(ids, skip_special_tokens=True)
    assert tuple(tiny_tokenizer.encode(text)) != ids[:-1]
    prompt = speak.reflection(PROBLEM, Completion(ids, text, "stop"))
    start = speak.attempt(PROBLEM)
    assert prompt[len(start) : len(start) + len(ids)] == ids


def test_an_ended_turn_is_not_ended_twice(tiny_tokenizer, speak):
    end = tiny_tokenizer.eos_token_id
    prompt = speak.retry(PROBLEM, said(tiny_tokenizer, "1"), said(tiny_tokenizer, "2"))
    assert prompt.count(end) == 5  # three requests, an answer, a reflection
    assert all(pair != (end, end) for pair in itertools.pairwise(prompt))


def test_a_turn_that_the_limit_cut_off_gets_its_end(tiny_tokenizer, speak):
    cut = Completion(tuple(tiny_tokenizer.encode("1 +")), "1 +", "length")
    ended = said(tiny_tokenizer, "1 +")
    assert speak.reflection(PROBLEM, cut) == speak.reflection(PROBLEM, ended)
    assert speak.retry(PROBLEM, cut, cut) == speak.retry(PROBLEM, ended, ended)


def test_white_space_that_was_sampled_stays(tiny_tokenizer):
    trimming = make_tokenizer(CHATML.replace("message['content']", "message['content'] | trim"))
    answer = said(trimming, "  7 \n")
    prompt = Conversations(trimming, REFLECT).reflection(PROBLEM, answer)
    assert "assistant\n  7 \n<|im_end|>" in trimming.decode(prompt)


def test_the_retry_asks_the_original_question_again(tiny_tokenizer, speak):
    prompt = speak.retry(SYSTEM, said(tiny_tokenizer, "1"), said(tiny_tokenizer, "2"))
    assert tiny_tokenizer.decode(prompt).endswith(
        "<|im_start|>user\nMake 7.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_retry_is_asked_in_the_words_of_the_recipe(tiny_tokenizer):
    speak = Conversations(tiny_tokenizer, REFLECT, "Once more: {question} {braces}")
    prompt = speak.retry(PROBLEM, said(tiny_tokenizer, "1"), said(tiny_tokenizer, "2"))
    assert "Once more: Make 7 from 3 and 4. {braces}<|im_end|>" in tiny_tokenizer.decode(prompt)


@pytest.mark.parametrize("template", [THINKS_FIRST, DROPS_EARLIER_ANSWERS])
def test_a_template_that_rewrites_earlier_turns_is_found_out_and_said_once(template, caplog):
    tokenizer = make_tokenizer(template)
    speak = Conversations(tokenizer, REFLECT)
    answer, reflection = said(tokenizer, "12"), said(tokenizer, "Oh.")
    with caplog.at_level(logging.WARNING, "mulligan"):
        first = speak.reflection(PROBLEM, answer)
        second = speak.retry(PROBLEM, answer, reflection)
    assert [r.message for r in caplog.records if "rewrites earlier turns" in r.message] == [
        caplog.messages[0]
    ]
    assert first == whole(tokenizer, conversation(PROBLEM, "12", REFLECT))
    asked = question(PROBLEM)
    assert second == whole(tokenizer, conversation(PROBLEM, "12", REFLECT, "Oh.", asked))


def test_a_template_that_keeps_earlier_turns_is_not_accused(tiny_tokenizer, speak, caplog):
    with caplog.at_level(logging.WARNING, "mulligan"):
        speak.retry(PROBLEM, said(tiny_tokenizer, "1"), said(tiny_tokenizer, "2"))
    assert caplog.messages == []


def test_tools_go_where_the_template_has_a_place_for_them():
    tokenizer = make_tokenizer(TAKES_TOOLS)
    prompt = Conversations(tokenizer, REFLECT).attempt(CALL)
    assert prompt == whole(tokenizer, list(CALL.messages), tools=[TOOL])
    assert tokenizer.decode(prompt).count('"book"') == 1


def test_tools_go_into_a_system_message_where_it_has_none(tiny_tokenizer, speak):
    text = tiny_tokenizer.decode(speak.attempt(CALL))
    described = json.dumps(TOOL, separators=(",", ":"))
    assert text.startswith(f"<|im_start|>system\nTools:\n{described}<|im_end|>\n<|im_start|>user\n")


def test_tools_join_a_system_message_that_is_there(tiny_tokenizer, speak):
    problem = Problem.create(SYSTEM.messages, {}, tools=[TOOL])
    text = tiny_tokenizer.decode(speak.attempt(problem))
    assert text.startswith("<|im_start|>system\nBe brief.\nTools:\n{")
    assert text.count("<|im_start|>system") == 1


def test_tools_stay_in_place_in_a_retry(tiny_tokenizer, speak):
    answer, reflection = said(tiny_tokenizer, "book()"), said(tiny_tokenizer, "No room.")
    prompt = speak.retry(CALL, answer, reflection)
    assert prompt[: len(speak.attempt(CALL))] == speak.attempt(CALL)
    assert tiny_tokenizer.decode(prompt).count("Tools:") == 1


def test_a_template_that_refuses_a_role_is_quoted():
    speak = Conversations(make_tokenizer(REFUSES_SYSTEM), REFLECT)
    assert speak.attempt(PROBLEM)
    with pytest.raises(MulliganError, match=r"refuses .* of system, user: no system role"):
        speak.attempt(SYSTEM)


def test_a_demonstration_of_an_answer_is_one_turn(tiny_tokenizer, speak):
    [(prompt, completion)] = speak.demonstration(Demonstration(PROBLEM, "3 + 4"))
    assert prompt == speak.attempt(PROBLEM)
    assert completion == said(tiny_tokenizer, "3 + 4").token_ids


def test_a_demonstration_of_a_second_chance_is_three_turns_that_go_on_from_each_other(
    tiny_tokenizer, speak
):
    turns = speak.demonstration(Demonstration(PROBLEM, "3 * 4", "Too much.", "3 + 4"))
    assert [tiny_tokenizer.decode(completion) for _, completion in turns] == [
        "3 * 4<|im_end|>",
        "Too much.<|im_end|>",
        "3 + 4<|im_end|>",
    ]
    for (prompt, completion), (later, _) in itertools.pairwise(turns):
        assert later[: len(prompt + completion)] == prompt + completion


def test_the_question_is_the_last_thing_that_the_user_said():
    asked = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    assert question(Problem.create([*asked, {"role": "user", "content": "Now?"}], {})) == "Now?"
