import pytest

from mulligan.episodes.conversation import Conversations
from mulligan.study.examine.reflections import StepRow, look, scripts, summarise
from mulligan.types import (
    Attempt,
    Completion,
    Failure,
    Problem,
    Sampling,
    TrainedEpisode,
    Verdict,
    Written,
)

PROBLEM = Problem.create("Make 5 from 2, 3.", {})
FAILURES = {
    "f": Failure(
        "f",
        Attempt(PROBLEM, (1,), Completion((2,), "no", "stop"), Verdict.wrong()),
        "tiny",
        Sampling(0.9, 5),
    )
}


def episode(text, finish="stop"):
    written = Written(text, len(text), finish)
    return TrainedEpisode(1, "f", 0, 1.0, 0.5, written, None, None)


def test_a_step_is_measured_by_what_its_reflections_say(tiny_tokenizer):
    said = ["I add 2 and 3", "I add 2 and 3", "Ещё yes", "so so"]
    asked = []

    def likelihood(prompt, completions):
        asked.append(tiny_tokenizer.decode(prompt))
        return [-3.0 * len(ids) for ids in completions]

    found = look(
        7,
        [episode(text) for text in said[:3]] + [episode(said[3], "length")],
        FAILURES,
        Conversations(tiny_tokenizer, "Why?"),
        lambda pairs: ["yes" in text for _, text in pairs],
        likelihood,
    )
    assert found == StepRow(
        step=7,
        reflections=4,
        tokens=(13 + 13 + 7 + 5) / 4,
        cut_off=1 / 4,
        distinct=3 / 4,
        new_pairs=6 / 10,  # four pairs twice, "ещё yes" and "so so" once
        names_numbers=pytest.approx((2 / 3 + 2 / 3) / 4),
        leaks=1 / 4,
        scripts=1 / 4,
        original_likelihood=-3.0,
    )
    assert all(text.endswith("Why?<|im_end|>\n<|im_start|>assistant\n") for text in asked)


def test_scripts_are_those_of_letters_only():
    assert scripts("3 + 4 = 7, да!") == {"CYRILLIC"}
    assert scripts("12 + 3") == set()


def test_a_step_without_reflections_says_nothing(tiny_tokenizer):
    bare = TrainedEpisode(1, "f", 0, 1.0, 0.5, None, None, None)
    speak = Conversations(tiny_tokenizer, "Why?")
    assert look(1, [bare], FAILURES, speak, lambda pairs: [], None) is None


def at(step, tokens):
    return StepRow(step, 8, tokens, 0.0, 1.0, None, None, None, 0.0, None)


def test_the_last_part_of_training_is_compared_with_the_first_run_by_run():
    rows = {
        "a": [at(step, 10.0 + step) for step in range(1, 11)],
        "b": [at(step, 20.0 - step) for step in range(1, 11)],
    }
    found = {(each.name, each.when): each for each in summarise(rows)}
    # Parts of two steps: 11.5 and 19.5 in one run, 18.5 and 10.5 in the other.
    assert found["tokens", "change"].per_run == {"a": 8.0, "b": -8.0}
    assert found["tokens", "part 1 of 5"].mean == 15.0
    assert ("leaks", "change") not in found
