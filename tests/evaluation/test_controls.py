import pytest

from mulligan.config import Evaluate
from mulligan.episodes.conversation import Conversations
from mulligan.errors import MulliganError
from mulligan.evaluation.controls import BY_NAME, CONTROLS, Failed, controls_of
from mulligan.types import Attempt, Completion, Problem, Verdict

PROBLEMS = [Problem.create(f"question {number}", {}) for number in range(3)]


@pytest.fixture
def speak(tiny_tokenizer):
    return Conversations(tiny_tokenizer, "Why?")


@pytest.fixture
def asked(tiny_tokenizer, speak):
    """Ask three failures under one control; return the prompts as text, and the written texts."""

    def ask(name, statuses=("failed",) * 3, untrained=True, **settings):
        attempts = [
            Attempt(problem, speak.attempt(problem), speak.written(f"answer {n}"), Verdict.wrong())
            for n, problem in enumerate(PROBLEMS)
        ]
        retries = [
            (speak.written(f"retry {n}"), Verdict(status, status))
            for n, status in enumerate(statuses)
        ]

        def write(who):
            return lambda purpose, prompts: [
                speak.written(f"{who} {purpose} {n}") for n in range(len(prompts))
            ]

        failed = Failed(
            attempts=attempts,
            reflections=[speak.written(f"reflection {n}") for n in range(3)],
            retries=retries,
            conversations=speak,
            settings=Evaluate(problems=3, **settings),
            write=write("trained"),
            untrained_writes=write("untrained") if untrained else None,
            borrow=list,
        )
        found = list(BY_NAME[name].ask(failed))
        return {each.place: turns(tiny_tokenizer, each.prompt) for each in found}, found

    return ask


def turns(tokenizer, prompt):
    """Return what was said in a prompt, in order."""
    parts = tokenizer.decode(list(prompt)).split("<|im_start|>")[1:]
    return [part.partition("\n")[2].removesuffix("<|im_end|>\n") for part in parts][:-1]


def test_nothing_asks_again_right_after_the_failed_answer(asked):
    prompts, _ = asked("nothing")
    assert prompts[1] == ["question 1", "answer 1", "question 1"]


def test_the_other_reflection_is_the_next_failures(asked):
    prompts, _ = asked("other_reflection")
    assert prompts[0] == ["question 0", "answer 0", "Why?", "reflection 1", "question 0"]
    assert prompts[2] == ["question 2", "answer 2", "Why?", "reflection 0", "question 2"]


def test_filler_has_as_many_tokens_as_the_reflection_and_ends_as_it_does(asked, speak):
    prompts, found = asked("filler")
    own = speak.written("reflection 0").token_ids
    assert len(found[0].text.token_ids) == len(own)
    assert found[0].text.token_ids[-1] == own[-1]
    assert set(found[0].text.text) == {" ", "."}
    assert prompts[0] == ["question 0", "answer 0", "Why?", found[0].text.text, "question 0"]


def test_filler_for_a_reflection_that_was_cut_off_is_cut_off_too(speak):
    cut = Completion((5, 6, 7), "abc", "length")
    assert len(speak.filler(cut).token_ids) == 3
    assert speak.filler(cut).finish_reason == "length"


def test_the_constant_sentence_is_the_same_for_every_failure(asked):
    prompts, _ = asked("constant", constant="Check it.", controls=["constant"])
    assert [prompts[n][3] for n in range(3)] == ["Check it."] * 3


def test_thinking_first_happens_in_a_fresh_conversation(asked):
    prompts, _ = asked("think_first", think="Think.")
    assert prompts[1] == ["question 1\n\nThink.", "trained thought 1", "question 1"]


def test_the_untrained_models_reflection_is_on_the_same_failure(asked):
    prompts, _ = asked("before_reflection")
    assert prompts[2][:3] == ["question 2", "answer 2", "Why?"]
    assert prompts[2][3:] == ["untrained before_reflection 2", "question 2"]
    assert not BY_NAME["before_reflection"].untrained_answers


def test_the_untrained_model_retries_after_the_models_own_reflection(asked):
    prompts, _ = asked("before_retry")
    assert prompts[0][3:] == ["reflection 0", "question 0"]
    assert BY_NAME["before_retry"].untrained_answers


@pytest.mark.parametrize("name", ["before_reflection", "before_retry"])
def test_without_an_untrained_model_its_controls_are_not_asked(asked, name):
    assert asked(name, untrained=False) == ({}, [])


def test_a_second_reflection_follows_only_a_retry_that_failed(asked):
    prompts, _ = asked("second_reflection", ("passed", "unparseable", "error"))
    assert list(prompts) == [1]
    assert prompts[1][2:] == [
        "Why?",
        "reflection 1",
        "question 1",
        "retry 1",
        "Why?",
        "trained second_reflection 0",
        "question 1",
    ]


def test_controls_are_asked_in_the_registrys_order_whatever_the_recipes():
    settings = Evaluate(problems=1, controls=["filler", "nothing"])
    assert [control.name for control in controls_of(settings)] == ["nothing", "filler"]


def test_every_control_has_a_name_title_and_column_of_its_own():
    for names in (
        {control.name for control in CONTROLS},
        {control.title for control in CONTROLS},
        {control.column for control in CONTROLS},
    ):
        assert len(names) == len(CONTROLS)


def test_a_control_that_there_is_not_is_refused_with_the_nearest_name():
    with pytest.raises(MulliganError, match=r"no control 'noting'.*nothing"):
        controls_of(Evaluate(problems=1, controls=["noting"]))


def test_the_constant_control_needs_its_sentence():
    with pytest.raises(MulliganError, match=r"set evaluate\.constant"):
        controls_of(Evaluate(problems=1, controls=["constant"]))
