import json

import pytest

from model_server import serving
from mulligan.storage.lock import hold
from tiny import TASK_FILE, lines, run_cli, write_recipe


def row(answer, number=0, **more):
    asked = {"role": "user", "content": f"Say something even, {number}."}
    said = {"role": "assistant", "content": answer}
    return {"messages": [asked, said], "given": {"number": number}, "model": "big", **more}


def write(path, *rows):
    path.write_text(
        "".join(each if isinstance(each, str) else json.dumps(each) + "\n" for each in rows)
    )
    return path


@pytest.fixture
def imported(tmp_path):
    """Imports rows into a store, by the command."""

    def run(*rows, options="{}", more=()):
        log = write(tmp_path / "log.jsonl", *rows)
        return run_cli(
            *("import", log, "--task", TASK_FILE, "--into", tmp_path / "store"),
            *("--task-options", options, *more),
        )

    return run


def counts(outcome):
    return [int(line.split()[0]) for line in outcome.out.splitlines() if line.startswith("  ")]


def test_failures_are_stored_and_everything_else_is_counted(imported, tmp_path):
    ended = imported(
        row("a"),  # odd: fails
        row("b"),  # even: passes
        row("a"),  # the same failure
        row("a", 1),
        "{broken\n",
        row("", 2),  # unparseable
        row("break", 3),
        options='{"breaks_on": "break"}',
    )
    assert ended.code == 0, ended.err
    assert counts(ended) == [7, 3, 1, 1, 1, 0, 1]
    stored = lines(tmp_path / "store" / "failures.jsonl")
    assert [each["source"] for each in stored] == [f"log.jsonl, line {n}" for n in (1, 4, 6)]
    assert [each["verdict"]["status"] for each in stored] == ["failed", "failed", "unparseable"]
    assert {each["model"] for each in stored} == {"big"}
    [apart] = lines(tmp_path / "store" / "unverified.jsonl")
    assert (apart["answer"], apart["verdict"]["status"]) == ("break", "error")
    assert "not read: log.jsonl, line 5: not valid JSON" in ended.out


def test_a_log_may_be_imported_again(imported, tmp_path):
    imported(row("a"), row("a", 1))
    before = (tmp_path / "store" / "failures.jsonl").read_bytes()
    ended = imported(row("a"), row("a", 1), row("c"))
    assert counts(ended)[1:4] == [1, 0, 2]
    assert (tmp_path / "store" / "failures.jsonl").read_bytes().startswith(before)


def test_no_secret_reaches_the_store(imported, tmp_path):
    key = "sk-abcdefghijklmnop1234"
    verdict = '{"verdict": "failed"}'
    secret = row(f"my key is {key}", note=key)
    secret["messages"][0]["content"] += f" Use {key} for customer-17."
    secret["given"]["key"] = key
    ended = imported(secret, options=verdict, more=["--redact", r"customer-\d+"])
    assert counts(ended) == [1, 1, 0, 0, 0, 1, 0]
    text = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert key.encode() not in text
    assert b"customer-17" not in text
    assert b"Use [redacted] for [redacted]." in text


def test_a_failure_that_depends_on_its_secret_is_kept_apart(imported, tmp_path):
    failing = "sk-abcdefghijklmnop123"  # odd as it is, even when it is redacted
    answer = failing if sum(map(ord, failing)) % 2 else failing + "a"
    assert sum(map(ord, answer)) % 2 == 1
    assert sum(map(ord, "[redacted]")) % 2 == 0
    ended = imported(row(answer))
    assert counts(ended) == [1, 0, 0, 0, 1, 1, 0]
    [apart] = lines(tmp_path / "store" / "unverified.jsonl")
    assert apart["verdict"]["detail"] == "failed before secrets were taken out, passed after"


@pytest.mark.parametrize("text", ["time,answer\n1,2\n", "\x00\x01\n", "hello\n"])
def test_a_log_that_is_not_json_lines_is_refused(imported, text):
    ended = imported(text)
    assert ended.code == 1
    assert "rows of" in ended.err
    assert "can be read" in ended.err


def test_an_empty_log_is_refused(imported):
    ended = imported("\n")
    assert ended.code == 1
    assert "is empty" in " ".join(ended.err.split())


def test_many_rows_that_cannot_be_read_are_all_named(imported):
    ended = imported(row("a"), *["{\n"] * 25)
    assert ended.out.count("not valid JSON") == 20
    assert "not read, too: lines 22, 23, 24, 25, 26" in ended.out


def test_a_store_in_use_is_left_alone(imported, tmp_path):
    with hold(tmp_path / "store"):
        ended = imported(row("a"))
    assert ended.code == 1
    assert "in use by another process" in " ".join(ended.err.split())


def test_training_takes_the_newest_of_the_store_but_no_problem_it_is_evaluated_on(
    imported, tmp_path, tiny_llama, caplog
):
    evaluated_on = row("a", 7)
    evaluated_on["messages"][0]["content"] = "test-0"
    failed = [row("a" * (2 * number + 1), number) for number in range(5)]
    imported(row("a", 8), *failed, row("a" * 801, 9), evaluated_on)
    recipe = write_recipe(
        tmp_path,
        tiny_llama,
        collect__store=str(tmp_path / "store"),
        collect__problems=6,  # the newest
        sft=None,
    )
    ended = run_cli("train", recipe, "--runs", tmp_path)
    assert ended.code == 0, ended.err
    assert "5 failures" in ended.out
    assert caplog.text.count("1 failures at problems that the run is evaluated on") == 1
    run = tmp_path / "tiny"
    stored = lines(run / "failures.jsonl")
    assert [each["attempt"]["completion"]["text"] for each in stored] == [
        "a", "aaa", "aaaaa", "aaaaaaa", "aaaaaaaaa",
    ]  # fmt: skip
    assert all(each["attempt"]["completion"]["token_ids"] for each in stored)
    [counted] = lines(run / "collected.jsonl")
    assert (counted["attempts"], counted["failed"], counted["too_long"]) == (6, 5, 1)
    trained = {each["failure_id"] for each in lines(run / "episodes.jsonl")}
    assert trained <= {each["id"] for each in stored}
    assert len(lines(run / "metrics.jsonl")) == 4


def test_a_server_with_a_shorter_context_than_the_models_sets_which_failures_are_taken(
    imported, tmp_path, tiny_llama
):
    imported(*(row("a" * (2 * number + 1), number) for number in range(5)))
    with serving(tiny_llama, context=20) as server:
        engine = {"kind": "server", "url": server.url, "model": server.name}
        recipe = write_recipe(
            tmp_path, tiny_llama, collect__store=str(tmp_path / "store"), engine=engine, sft=None
        )
        ended = run_cli("collect", recipe, "--runs", tmp_path)
    assert ended.code == 1
    assert "5 do not fit the context" in " ".join(ended.out.split())


def test_a_store_that_is_not_there_is_named(tmp_path, tiny_llama):
    recipe = write_recipe(tmp_path, tiny_llama, collect__store="nowhere", sft=None)
    ended = run_cli("train", recipe, "--runs", tmp_path)
    assert ended.code == 1
    assert "collect.store names 'nowhere'" in " ".join(ended.err.split())
