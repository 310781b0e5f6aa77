import io
import sys

import pytest

from tiny import run_cli


@pytest.fixture
def chat(tiny_run, monkeypatch):
    """Types lines to the command."""

    def run(*typed):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in typed)))
        ended = run_cli("chat", tiny_run, "--task-options", '{"verdict": "failed"}')
        assert ended.code == 0, ended.err
        return ended.out

    return run


def test_a_person_watches_try_verdict_reflection_and_retry(chat):
    out = chat("Say something even.", '{"number": 1}')
    order = [out.index(word) for word in ("attempt ", "failed (odd)", "reflection ", "retry ")]
    assert order == sorted(order)
    assert out.count("verdict failed (odd)") == 2


def test_an_empty_line_takes_a_problem_of_the_task(chat):
    out = chat("", "")
    assert "asked test-0" in out
    assert "asked test-1" in out


def test_what_cannot_be_asked_is_said_and_the_next_is_taken(chat):
    out = chat("hm", "{broken", "hm", "[1]", "")
    assert out.count("not asked What the verifier needs should be a JSON object") == 2
    assert "asked test-0" in out
