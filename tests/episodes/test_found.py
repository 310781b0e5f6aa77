import contextlib
from dataclasses import replace

import pytest

from mulligan.engines.scripted import ScriptedEngine
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.found import Search, Searched, open_found, open_searched, search
from mulligan.types import Problem, Verdict
from tiny import said

PROBLEMS = [Problem.create(f"question {number}", {}) for number in range(4)]
VERDICTS = {"yes": Verdict.right(), "no": Verdict.wrong(), "crash": Verdict.error("broke")}
HOW = Search("reflection", 2, 2, 0.9, 40, 30, "tiny", seed=7)


class PowerCutError(Exception):
    pass


@pytest.fixture
def look_for(tmp_path, tiny_tokenizer):
    """Searches into one folder; returns the engine, what was found, and the lines of chunks."""

    def run(script, cut_after=None, how=HOW):
        engine, done = ScriptedEngine(script, tiny_tokenizer), []

        def progress(count):
            done.append(count)
            if len(done) == cut_after:
                raise PowerCutError

        with (
            open_found(tmp_path / "found.jsonl") as found,
            open_searched(tmp_path / "searched.jsonl") as searched,
        ):
            with contextlib.suppress(PowerCutError):
                search(
                    engine,
                    Conversations(tiny_tokenizer, "Why?"),
                    lambda pairs: [VERDICTS[text] for _, text in pairs],
                    PROBLEMS,
                    how,
                    found=found,
                    searched=searched,
                    progress=progress,
                )
            return engine, list(found), list(searched)

    return run


SCRIPT = ["yes", "no", "z1", "z2", "no", "yes", "no", "crash", "w1", "w2", "yes", "yes"]
"""Two chunks: 0 is solved and 1 fails, its second retry passes; 2 fails and both its retries pass,
3 cannot be judged."""


def test_what_passes_is_kept_with_its_tokens_and_what_it_followed(look_for, tiny_tokenizer):
    engine, found, _ = look_for(SCRIPT)
    assert [(each.problem_id, each.at, each.sample) for each in found] == [
        (PROBLEMS[0].id, "first_try", 0),
        (PROBLEMS[1].id, "retry", 1),
        (PROBLEMS[2].id, "retry", 0),
        (PROBLEMS[2].id, "retry", 1),
    ]
    end = tiny_tokenizer.eos_token_id
    assert {each.answer_ids for each in found} == {(*tiny_tokenizer.encode("yes"), end)}
    bare = Conversations(tiny_tokenizer, "Why?").attempt(PROBLEMS[1])
    assert found[1].prompt_ids == bare
    assert found[1].context_ids == engine.calls[2].prompts[1] != bare
    assert "z2" in tiny_tokenizer.decode(found[1].context_ids)
    assert found[0].context_ids == found[0].prompt_ids


def test_a_chunk_counts_what_became_of_its_problems(look_for):
    _, _, searched = look_for(SCRIPT)
    words = [("yes", "no", "z1", "z2", "no", "yes"), ("no", "crash", "w1", "w2", "yes", "yes")]
    tokens = [sum(len(word) + 1 for word in chunk) for chunk in words]
    assert searched == [
        Searched(0, 2, 1, 1, 2, 1, tokens[0]),
        Searched(1, 2, 0, 1, 2, 2, tokens[1]),
    ]


def test_a_search_that_was_cut_off_goes_on_and_writes_nothing_twice(look_for, tmp_path):
    look_for(SCRIPT[:6], cut_after=1)
    _, found, searched = look_for(SCRIPT[6:])
    assert len(found) == 4
    assert [line.chunk for line in searched] == [0, 1]


def test_nothing_is_reflected_on_where_everything_passes(look_for):
    engine, found, _ = look_for(["yes"] * 4)
    assert len(engine.calls) == 2
    assert [each.at for each in found] == ["first_try"] * 4


ASKED = {
    "nothing": lambda speak, problem, said: speak.retry_without_reflection(problem, said),
    "fresh": lambda speak, problem, said: speak.attempt(problem),
}


@pytest.mark.parametrize("second", ASKED)
def test_what_failed_is_tried_again_without_a_reflection_where_that_is_asked_for(
    look_for, tiny_tokenizer, second
):
    script = ["yes", "no", "no", "yes", "yes", "no", "crash", "no"]
    engine, found, searched = look_for(script, how=replace(HOW, second=second))
    prompt = ASKED[second](
        Conversations(tiny_tokenizer, "Why?"), PROBLEMS[1], said(tiny_tokenizer, "no")
    )
    assert engine.calls[1].prompts == (prompt,)
    assert [(each.problem_id, each.at, each.sample) for each in found] == [
        (PROBLEMS[0].id, "first_try", 0),
        (PROBLEMS[1].id, "retry", 1),
        (PROBLEMS[2].id, "first_try", 0),
    ]
    assert found[1].context_ids == prompt
    assert found[1].prompt_ids == found[1].context_ids or second == "nothing"
    assert [(line.failed, line.retries, line.passed, line.tokens) for line in searched] == [
        (1, 2, 1, len("yes") + len("no") + len("no") + len("yes") + 4),
        (1, 1, 0, len("yes") + len("no") + len("no") + 3),
    ]
