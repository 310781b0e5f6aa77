import contextlib

import pytest

from mulligan.config import Evaluate
from mulligan.engines.scripted import ScriptedEngine
from mulligan.episodes.conversation import Conversations
from mulligan.evaluation.controls import controls_of
from mulligan.evaluation.evaluate import Protocol, evaluate
from mulligan.evaluation.scores import answer_in
from mulligan.storage.records import RecordLog
from mulligan.types import Problem, Trial, Verdict
from tiny import tiny_recipe

PROBLEMS = [Problem.create(f"question {number}", {}) for number in range(4)]
COLUMNS = ("after_reflection", "after_nothing", "after_other_reflection")


class PowerCutError(Exception):
    pass


def protocol(problems=PROBLEMS, problems_at_once=4, reflection_tokens=40, **settings):
    evaluated = Evaluate(problems=len(problems), **settings)
    return Protocol(
        problems=problems,
        seed=7,
        temperature=0.9,
        answer_tokens=30,
        reflection_tokens=reflection_tokens,
        problems_at_once=problems_at_once,
        settings=evaluated,
        controls=controls_of(evaluated),
    )


def judge(pairs):
    broken = Verdict.error("broke")
    verdicts = {"yes": Verdict.right(), "no": Verdict.wrong(), "eh": Verdict.unparseable()}
    return [verdicts.get(text, broken) for _, text in pairs]


def leaks(pairs):
    return ["leak" in text for _, text in pairs]


class Bench:
    """Evaluates into one folder with a script."""

    def __init__(self, folder, tokenizer):
        self.folder, self.tokenizer = folder, tokenizer

    def run(self, script, when="before", cut_after=None, untrained=None, **changes):
        engine = ScriptedEngine(script, self.tokenizer)
        other = ScriptedEngine(untrained, self.tokenizer) if untrained else None
        self.untrained = other
        speak = Conversations(self.tokenizer, "Why?")
        chunks = []

        def progress(count):
            chunks.append(count)
            if len(chunks) == cut_after:
                raise PowerCutError

        with RecordLog(self.folder / f"{when}.jsonl", Trial, lambda t: t.id) as log:
            with contextlib.suppress(PowerCutError):
                made = protocol(**changes)
                evaluate(engine, speak, judge, leaks, made, when, log, progress, other)
            return engine, list(log)

    def by_column(self, first="no", **second):
        """A script that tells from the prompt which try it is asked for."""

        def script(prompt, i, j):
            text = self.tokenizer.decode(prompt)
            if text.count("<|im_start|>user") == 1:
                return first[i] if isinstance(first, list) else first
            if text.endswith("Why?<|im_end|>\n<|im_start|>assistant\n"):
                asked = text.split("question ")[1][0]
                return f"thought {asked}"
            return second.get("again", "no")

        return script


@pytest.fixture
def bench(tmp_path, tiny_tokenizer):
    return Bench(tmp_path, tiny_tokenizer)


def test_a_problem_solved_at_the_first_try_has_no_second_tries(bench):
    _, trials = bench.run(bench.by_column(first=["yes", "no", "yes", "eh"]))
    assert [t.first_try.verdict.status for t in trials] == [
        "passed",
        "failed",
        "passed",
        "unparseable",
    ]
    for trial in (trials[0], trials[2]):
        assert trial.reflection is None
        assert trial.leaked is None
        assert [answer_in(trial, column) for column in COLUMNS] == [None] * 3
    for trial in (trials[1], trials[3]):
        assert all(answer_in(trial, column) is not None for column in COLUMNS)


def test_trials_keep_the_order_and_words_of_the_problems(bench):
    _, trials = bench.run(bench.by_column())
    assert [t.problem_id for t in trials] == [p.id for p in PROBLEMS]
    assert [t.question for t in trials] == [f"question {n}" for n in range(4)]
    assert [t.reflection for t in trials] == [f"thought {n}" for n in range(4)]
    assert {t.when for t in trials} == {"before"}


def test_a_verifier_that_breaks_on_a_first_try_leaves_it_unjudged_without_second_tries(bench):
    engine, trials = bench.run(bench.by_column(first=["crash", "no", "no", "yes"]))
    assert trials[0].first_try.verdict.status == "error"
    assert trials[0].after_reflection is None
    assert len(engine.calls[1].prompts) == 2


def test_a_verifier_that_breaks_on_a_second_try_never_makes_it_a_failure(bench):
    _, trials = bench.run(bench.by_column(again="crash"))
    assert {answer_in(t, c).verdict.status for t in trials for c in COLUMNS} == {"error"}


def test_the_control_without_reflection_asks_right_after_the_failed_answer(bench):
    engine, _ = bench.run(bench.by_column())
    _, _, _, nothing, _ = engine.calls
    for number, prompt in enumerate(nothing.prompts):
        text = bench.tokenizer.decode(prompt)
        assert text.count(f"question {number}") == 2
        assert "Why?" not in text
        assert "thought" not in text


def test_the_other_reflection_is_always_another_problems(bench):
    engine, _ = bench.run(bench.by_column())
    _, _, own, _, other = engine.calls
    for number in range(4):
        assert f"thought {number}" in bench.tokenizer.decode(own.prompts[number])
        text = bench.tokenizer.decode(other.prompts[number])
        assert f"thought {number}" not in text
        assert f"thought {(number + 1) % 4}" in text
        assert text.count(f"question {number}") == 2


def test_a_failure_alone_in_its_chunk_gets_a_reflection_on_the_next_problem(bench):
    engine, trials = bench.run(bench.by_column(first=["yes", "yes", "no", "yes"]))
    assert trials[2].second_tries["other_reflection"].reflection == "thought 3"
    assert "thought 3" in bench.tokenizer.decode(engine.calls[-1].prompts[0])
    assert "question 2" in bench.tokenizer.decode(engine.calls[-1].prompts[0])


def test_the_borrowed_reflection_is_the_same_after_a_resume(bench):
    first = ["yes", "no"]
    bench.run(bench.by_column(first=first), problems_at_once=2, cut_after=1)
    _, resumed = bench.run(bench.by_column(first=first), problems_at_once=2)
    _, whole = bench.run(bench.by_column(first=first), "whole", problems_at_once=2)
    assert [t.second_tries for t in resumed] == [t.second_tries for t in whole]


def test_an_evaluation_of_a_single_problem_has_no_other_reflection_to_give(bench):
    _, (trial,) = bench.run(bench.by_column(), problems=PROBLEMS[:1])
    assert set(trial.second_tries) == {"nothing"}


def test_controls_can_be_left_out(bench):
    engine, trials = bench.run(bench.by_column(), controls=[])
    assert len(engine.calls) == 3
    assert all(t.second_tries == {} for t in trials)
    assert all(t.after_reflection for t in trials)


def test_controls_do_not_change_what_stands_before_them(bench):
    all_of_them = ["second_reflection", "think_first", "filler", "other_reflection", "nothing"]
    few, _ = bench.run(bench.by_column(), "few")
    many, _ = bench.run(bench.by_column(), "many", controls=all_of_them, greedy=True)
    assert many.calls[:5] == few.calls


def test_greedy_tries_are_made_once_a_problem(bench):
    engine, trials = bench.run(bench.by_column(first="yes"), samples=2, greedy=True)
    assert [call.sampling.temperature for call in engine.calls] == [0.9, 0.0, 0.9]
    assert [t.greedy is not None for t in trials] == [True] * 4 + [False] * 4
    assert engine.calls[1].prompts == engine.calls[0].prompts


def test_the_mean_log_probability_of_each_text_is_kept(bench):
    _, trials = bench.run(bench.by_column())
    assert {t.first_try.logprob for t in trials} == {-1.0}
    assert {t.reflection_logprob for t in trials} == {-1.0}
    assert {a.logprob for t in trials for a in t.second_tries.values()} == {-1.0}


def test_a_leaked_answer_is_noted(bench):
    texts = ["no"] * 4 + ["leak it", "vague", "leak", ""] + ["no"] * 12
    _, trials = bench.run(texts)
    assert [t.leaked for t in trials] == [True, False, True, False]


def test_lengths_count_the_stop_token_and_endings_are_kept(bench):
    _, trials = bench.run(bench.by_column(), reflection_tokens=5)
    assert trials[0].first_try.tokens == len("no") + 1
    assert trials[0].first_try.finish_reason == "stop"
    assert trials[0].reflection_tokens == 5


def test_problems_samples_and_seeds_are_the_same_before_and_after_training(bench):
    before, _ = bench.run(bench.by_column(), "before", problems_at_once=3, samples=2)
    after, _ = bench.run(bench.by_column(), "after", problems_at_once=3, samples=2)
    assert [c.sampling for c in before.calls] == [c.sampling for c in after.calls]
    assert [c.prompts for c in before.calls] == [c.prompts for c in after.calls]


def test_every_column_and_chunk_draws_from_a_seed_of_its_own(bench):
    engine, _ = bench.run(bench.by_column(), problems_at_once=2, samples=2)
    seeds = [call.sampling.seed for call in engine.calls]
    assert len(seeds) == 5 * 4
    assert len(set(seeds)) == len(seeds)


def test_several_samples_of_a_problem_are_trials_of_their_own(bench):
    _, trials = bench.run(bench.by_column(), samples=3)
    assert len({t.id for t in trials}) == 12
    assert [t.sample for t in trials] == [0] * 4 + [1] * 4 + [2] * 4


def test_an_evaluation_that_was_cut_off_goes_on_chunk_by_chunk(bench):
    cut, some = bench.run(bench.by_column(), problems_at_once=2, samples=2, cut_after=1)
    assert len(some) == 2
    resumed, trials = bench.run(bench.by_column(), problems_at_once=2, samples=2)
    assert len(resumed.calls) == 3 * len(cut.calls)
    assert [(t.sample, t.problem_id) for t in trials] == [
        (sample, p.id) for sample in range(2) for p in PROBLEMS
    ]


def test_a_chunk_of_which_only_a_part_was_written_is_drawn_again_and_not_doubled(bench):
    first, whole = bench.run(bench.by_column())
    path = bench.folder / "before.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    again, trials = bench.run(bench.by_column())
    assert [c.sampling for c in again.calls] == [c.sampling for c in first.calls]
    assert trials == whole


def test_a_finished_evaluation_asks_nothing_again(bench):
    bench.run(bench.by_column())
    engine, trials = bench.run(bench.by_column())
    assert engine.calls == []
    assert len(trials) == 4


def test_an_evaluation_can_have_a_temperature_of_its_own():
    warm, cold = (
        Protocol.of(tiny_recipe(evaluate={"problems": 2, "temperature": t}), PROBLEMS)
        for t in (None, 0.0)
    )
    assert (warm.temperature, cold.temperature) == (0.9, 0.0)
