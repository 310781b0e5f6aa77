import contextlib

import pytest

from mulligan.engines.scripted import ScriptedEngine
from mulligan.episodes.collect import Collected, collect, collected_key
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.failures import FailureStore
from mulligan.errors import MulliganError
from mulligan.storage.records import RecordLog
from mulligan.types import Completion, Problem, Sampling, Verdict
from tiny import lines, said

PROBLEMS = [Problem.create(f"question {number}", {}) for number in range(5)]
SAMPLING = Sampling(0.9, 40, seed=3)
VERDICTS = {
    "yes": Verdict.right(),
    "no": Verdict.wrong(),
    "eh": Verdict.unparseable(),
    "crash": Verdict.error("broke"),
}


class PowerCutError(Exception):
    pass


def judge(pairs):
    return [VERDICTS[text] for _, text in pairs]


@pytest.fixture
def gather(tmp_path, tiny_tokenizer):
    """Collects into one folder; returns the engine, the stored failures and the log's lines."""

    def run(script, at_once=2, attempts=1, cut_after=None, context=None):
        engine = ScriptedEngine(script, tiny_tokenizer)
        done = []

        def progress(count):
            done.append(count)
            if len(done) == cut_after:
                raise PowerCutError

        with (
            FailureStore(tmp_path / "failures.jsonl") as store,
            RecordLog(tmp_path / "collected.jsonl", Collected, collected_key) as log,
        ):
            with contextlib.suppress(PowerCutError):
                collect(
                    engine,
                    Conversations(tiny_tokenizer, "Why?", context=context),
                    judge,
                    PROBLEMS,
                    attempts=attempts,
                    at_once=at_once,
                    sampling=SAMPLING,
                    reflection_tokens=30,
                    model="tiny",
                    store=store,
                    log=log,
                    progress=progress,
                )
            return engine, list(store), list(log), done

    return run


def by_question(tokenizer, answers):
    """A script that answers each question in its own way, whenever it is asked."""

    def script(prompt, i, j):
        return next(a for q, a in answers.items() if q in tokenizer.decode(prompt))

    return script


def test_what_does_not_pass_is_stored_with_where_it_came_from(gather):
    _, stored, log, done = gather(["yes", "no", "eh", "yes", "no"])
    assert [f.attempt.problem for f in stored] == [PROBLEMS[1], PROBLEMS[2], PROBLEMS[4]]
    assert [f.attempt.verdict.status for f in stored] == ["failed", "unparseable", "failed"]
    assert {(f.model, f.sampling) for f in stored} == {("tiny", SAMPLING)}
    assert done == [2, 2, 1]
    assert log == [
        Collected(0, 2, 1, 1, 0, 0, tokens=7),  # a token per letter, and one that ends the turn
        Collected(1, 2, 1, 0, 1, 0, tokens=7),
        Collected(2, 1, 0, 1, 0, 0, tokens=3),
    ]


def test_a_stored_failure_keeps_its_tokens_but_no_log_probs_which_nothing_reads_again(tiny_run):
    said = [line["attempt"]["completion"] for line in lines(tiny_run / "failures.jsonl")]
    assert all(each["token_ids"] and each["logprobs"] is None for each in said)


def test_a_broken_verifier_is_counted_and_stores_nothing(gather):
    _, stored, log, _ = gather(["crash", "no", "crash", "yes", "yes"])
    assert [f.attempt.problem for f in stored] == [PROBLEMS[1]]
    assert [line.errors for line in log] == [1, 1, 0]


def test_several_attempts_at_a_problem_are_failures_of_their_own(gather):
    _, stored, _, _ = gather(["no", "no", "yes", "no", *["yes"] * 6], attempts=2)
    assert [(f.attempt.problem, f.attempt.sample) for f in stored] == [
        (PROBLEMS[0], 0),
        (PROBLEMS[0], 1),
        (PROBLEMS[1], 1),
    ]
    assert len({f.id for f in stored}) == 3


def test_every_chunk_draws_from_a_seed_of_its_own(gather):
    engine, _, _, _ = gather(["no"] * 5)
    assert len({call.sampling.seed for call in engine.calls}) == 3


def test_collecting_that_was_cut_off_goes_on_after_the_last_chunk(gather, tiny_tokenizer):
    answers = {
        p.messages[0]["content"]: a
        for p, a in zip(PROBLEMS, ["no", "eh", "yes", "no", "no"], strict=True)
    }
    script = by_question(tiny_tokenizer, answers)
    cut, stored, _, _ = gather(script, cut_after=1)
    assert len(stored) == 2
    resumed, stored, log, done = gather(script)
    assert [call.prompts for call in resumed.calls].count(cut.calls[0].prompts) == 0
    assert len(resumed.calls) == 2
    assert done == [2, 2, 1]
    assert [f.attempt.problem for f in stored] == [PROBLEMS[i] for i in (0, 1, 3, 4)]
    assert [line.chunk for line in log] == [0, 1, 2]


def test_a_chunk_whose_line_is_missing_is_drawn_again_and_stored_once(gather, tmp_path):
    first, stored, _, _ = gather(["no"] * 5)
    log = tmp_path / "collected.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))
    again, stored_again, lines, _ = gather(["no"] * 5)
    assert [call.sampling for call in again.calls] == [first.calls[2].sampling]
    assert stored_again == stored
    assert len(lines) == 3


def test_what_does_not_fit_the_context_is_left_out_counted_and_said(gather, tiny_tokenizer, caplog):
    conversations = Conversations(tiny_tokenizer, "Why?")
    no = said(tiny_tokenizer, "no")
    shortest = len(conversations.retry(PROBLEMS[0], no, Completion((), "", "length")))
    script = ["no", "no and no", "yes", "no", "no"]
    verdicts = VERDICTS | {"no and no": Verdict.wrong()}
    limit = shortest + 30 + SAMPLING.max_tokens  # so the longer answer is too long
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VERDICTS, "no and no", verdicts["no and no"])
        _, stored, log, done = gather(script, context=limit)
    assert [f.attempt.problem for f in stored] == [PROBLEMS[i] for i in (0, 3, 4)]
    assert [line.too_long for line in log] == [1, 0, 0]
    assert [line.failed for line in log] == [2, 1, 1]
    assert done == [2, 2, 1]
    assert "1 problems or failures are left out" in caplog.text


def test_a_context_that_not_even_a_first_answer_fits_is_refused(gather, tiny_tokenizer):
    conversations, nothing = Conversations(tiny_tokenizer, "Why?"), Completion((), "", "length")
    context = len(conversations.attempt(PROBLEMS[0])) + 39
    needed = len(conversations.retry(PROBLEMS[0], nothing, nothing)) + 30 + 2 * SAMPLING.max_tokens
    with pytest.raises(
        MulliganError,
        match=f"context of {context} tokens is shorter than one conversation.* takes {needed}",
    ):
        gather(["no"] * 5, context=context)
