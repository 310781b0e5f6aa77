import itertools
import json
import logging
from datetime import date

import pytest

from mulligan.episodes.conversation import Conversations, question
from mulligan.errors import MulliganError
from mulligan.models.load import load_tokenizer
from mulligan.models.template import ChatTemplate
from mulligan.types import Completion, Demonstration, Problem
from template_families import FAMILIES
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


def test_a_template_that_rewrites_earlier_turns_is_found_out_and_said_once(caplog):
    tokenizer = make_tokenizer(DROPS_EARLIER_ANSWERS)
    speak = Conversations(tokenizer, REFLECT)
    answer, reflection = said(tokenizer, "12"), said(tokenizer, "Oh.")
    with caplog.at_level(logging.WARNING, "mulligan"):
        first = speak.reflection(PROBLEM, answer)
        second = speak.retry(PROBLEM, answer, reflection)
    assert [message for message in caplog.messages if "rewrites earlier turns" in message] == [
        caplog.messages[0]
    ]
    assert first == whole(tokenizer, conversation(PROBLEM, "12", REFLECT))
    asked = question(PROBLEM)
    assert second == whole(tokenizer, conversation(PROBLEM, "12", REFLECT, "Oh.", asked))


def test_a_template_that_opens_the_thought_itself_is_given_it_whole_in_the_history():
    tokenizer = make_tokenizer(THINKS_FIRST)
    speak = Conversations(tokenizer, REFLECT)
    prompt = speak.reflection(PROBLEM, said(tokenizer, "Add.</think>12"))
    history = "<think>\nAdd.\n</think>\n\n12"
    assert prompt == whole(tokenizer, conversation(PROBLEM, history, REFLECT))


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


THOUGHT = "<think>\nThree and four.\n</think>\n\n"


@pytest.mark.parametrize("thought", ["", THOUGHT])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_prompt_is_token_identical_to_what_a_familys_template_gives(name, thought):
    tokenizer = FAMILIES[name].tokenizer()
    speak = Conversations(tokenizer, REFLECT, today=date.today().isoformat())
    answer, reflection = (
        Completion(ids, tokenizer.decode(ids, skip_special_tokens=True), "stop")
        for ids in (sampled(name, tokenizer, thought, text) for text in ("3 * 4", "I multiplied."))
    )
    asked = question(PROBLEM)
    raw = "" if name == "gpt-oss" else thought
    if name == "deepseek-r1":
        raw = thought or "<think>\n\n</think>\n\n"
    assert speak.attempt(PROBLEM) == whole(tokenizer, conversation(PROBLEM))
    assert speak.reflection(PROBLEM, answer) == whole(
        tokenizer, conversation(PROBLEM, f"{raw}3 * 4", REFLECT)
    )
    assert speak.retry(PROBLEM, answer, reflection) == whole(
        tokenizer,
        conversation(PROBLEM, f"{raw}3 * 4", REFLECT, f"{raw}I multiplied.", asked),
    )


def sampled(name, tokenizer, thought, text):
    """What a model of a family samples when it thinks and says something."""
    end = tokenizer.encode(FAMILIES[name].ends, add_special_tokens=False)
    if name == "gpt-oss":
        analysis = f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant"
        words = f"{analysis if thought else ''}<|channel|>final<|message|>{text}"
    elif name == "deepseek-r1":  # its prompt has opened the thought
        words = thought.removeprefix("<think>\n") + text if thought else f"</think>\n\n{text}"
    else:
        words = thought + text
    return (*tokenizer.encode(words, add_special_tokens=False), *end)


@pytest.mark.parametrize(
    ("name", "keeps"),
    [("qwen2.5", True), ("phi3", True), ("qwen3", False), ("gpt-oss", False)],
)
def test_whether_the_history_keeps_thoughts_is_found_by_rendering_and_said(name, keeps, caplog):
    tokenizer = FAMILIES[name].tokenizer()
    ids = sampled(name, tokenizer, THOUGHT, "3 * 4")
    text = tokenizer.decode(ids, skip_special_tokens=True)
    with caplog.at_level(logging.WARNING, "mulligan"):
        prompt = Conversations(tokenizer, REFLECT).reflection(
            PROBLEM, Completion(ids, text, "stop")
        )
    assert ("Three and four." in tokenizer.decode(prompt)) == keeps
    assert any("drops or rewrites the thoughts" in m for m in caplog.messages) != keeps


@pytest.mark.parametrize("name", ["qwen3", "gpt-oss", "deepseek-r1", "mistral"])
def test_thoughts_are_understood_by_the_marks_of_the_family(name):
    tokenizer = FAMILIES[name].tokenizer()
    ids = sampled(name, tokenizer, THOUGHT, "3 * 4")
    completion = Completion(ids, tokenizer.decode(ids, skip_special_tokens=True), "stop")
    understood = Conversations(tokenizer, REFLECT).understand(completion)
    assert understood.text == "3 * 4"
    assert "Three and four." in understood.thoughts
    assert understood.token_ids == ids
    assert not understood.unfinished_thought
    again = Conversations(tokenizer, REFLECT)
    assert again.understand(understood) == understood
    assert again.reflection(PROBLEM, understood) == again.reflection(PROBLEM, completion)


def test_a_recipes_own_marks_are_the_only_ones(tiny_tokenizer):
    speak = Conversations(tiny_tokenizer, REFLECT, marks=("((", "))"))
    understood = speak.understand(said(tiny_tokenizer, "((3 + 4))<think>7"))
    assert (understood.text, understood.thoughts) == ("<think>7", "3 + 4")


def test_an_unfinished_thought_is_told_and_the_history_closes_it_where_it_is_rendered():
    tokenizer = FAMILIES["deepseek-r1"].tokenizer()
    speak = Conversations(tokenizer, REFLECT)
    cut = speak.understand(Completion(tuple(tokenizer.encode("Hm, so")), "Hm, so", "length"))
    assert (cut.text, cut.thoughts, cut.unfinished_thought) == ("", "Hm, so", True)
    assert "Hm, so" not in tokenizer.decode(speak.reflection(PROBLEM, cut))


def test_several_calls_at_once_go_back_as_they_were_sampled_with_the_templates_own_tools():
    tokenizer = FAMILIES["qwen2.5"].tokenizer()
    calls = '<tool_call>\n{"name": "book", "arguments": {}}\n</tool_call>'
    answer = said(tokenizer, f"{calls}\n{calls}")
    prompt = Conversations(tokenizer, REFLECT).reflection(CALL, answer)
    messages = conversation(CALL, answer.text, REFLECT)
    assert prompt == whole(tokenizer, messages, tools=[TOOL])
    assert tokenizer.decode(prompt).count('"arguments": {}') == 2


def test_a_call_in_a_channel_goes_back_as_a_call():
    tokenizer = FAMILIES["gpt-oss"].tokenizer()
    text = (
        "<|channel|>analysis<|message|>A room.<|end|><|start|>assistant to=functions.book"
        '<|channel|>commentary json<|message|>{"nights": 2}<|call|>'
    )
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    speak = Conversations(tokenizer, REFLECT)
    told = tokenizer.decode(speak.reflection(CALL, Completion(ids, "", "stop")))
    assert 'to=functions.book<|channel|>commentary json<|message|>{"nights": 2}<|call|>' in told
    assert "A room." in told  # kept by this template until an answer follows


def test_tools_join_the_question_where_the_template_knows_no_system_message():
    tokenizer = FAMILIES["gemma2"].tokenizer()
    text = tokenizer.decode(Conversations(tokenizer, REFLECT).attempt(CALL))
    described = json.dumps(TOOL, separators=(",", ":"))
    assert text.endswith(
        f"user\nTools:\n{described}\n\nBook a room.<end_of_turn>\n<start_of_turn>model\n"
    )


def test_the_template_is_rendered_once_for_all_retries_of_a_problem(tiny_tokenizer, monkeypatch):
    rendered = []
    plain = ChatTemplate.render

    def count(self, *args, **options):
        rendered.append(args)
        return plain(self, *args, **options)

    monkeypatch.setattr(ChatTemplate, "render", count)
    speak = Conversations(tiny_tokenizer, REFLECT)
    answer = said(tiny_tokenizer, "12")
    speak.retry(PROBLEM, answer, said(tiny_tokenizer, "first"))
    once = len(rendered)
    for number in range(10):
        speak.retry(PROBLEM, answer, said(tiny_tokenizer, f"reflection {number}"))
    assert len(rendered) == once <= 3
