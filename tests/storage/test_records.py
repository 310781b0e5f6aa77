import json
import logging
import math
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disk_faults import (
    as_nobody,
    ended,
    fill,
    in_background,
    killed_after,
    let_everybody_in,
    make_read_only,
    small_disk,
)
from mulligan.errors import MulliganError
from mulligan.storage import line_index as index
from mulligan.storage.records import SCHEMA, RecordLog, find_records, newest_records


@dataclass(frozen=True, slots=True)
class Note:
    id: str
    text: str = ""
    values: tuple[float, ...] = ()


def open_notes(path):
    return RecordLog(path, Note, lambda note: note.id)


def write_notes(path, notes):
    with open_notes(path) as log:
        for note in notes:
            assert log.append(note)
    return path.read_bytes()


def numbered(count, text="some text"):
    return [Note(f"n{number}", text, (number / 3,)) for number in range(count)]


@pytest.fixture
def few_in_memory(monkeypatch):
    """Let the index spill to its file after 10 entries."""
    monkeypatch.setattr(index, "SPILL_EVERY", 10)


def test_what_was_appended_is_read_back_in_order(tmp_path):
    notes = numbered(5)
    write_notes(tmp_path / "notes.jsonl", notes)
    with open_notes(tmp_path / "notes.jsonl") as log:
        assert list(log) == notes
        assert len(log) == 5
        assert log[3] == notes[3]
        assert "n4" in log
        assert "n5" not in log


def test_every_line_is_strict_json_with_its_schema_version(tmp_path):
    content = write_notes(tmp_path / "notes.jsonl", [Note("a", "é\n\u2028\0", (math.inf,))])
    assert content.count(b"\n") == 1
    line = json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert line == {"schema": SCHEMA, "id": "a", "text": "é\n\u2028\0", "values": ["Infinity"]}


def test_numbers_that_are_not_finite_come_back_as_they_were(tmp_path):
    write_notes(tmp_path / "notes.jsonl", [Note("a", values=(math.inf, -math.inf, math.nan, 0.1))])
    with open_notes(tmp_path / "notes.jsonl") as log:
        values = log[0].values
    assert values[:2] == (math.inf, -math.inf)
    assert math.isnan(values[2])
    assert values[3] == 0.1


def test_plain_dictionaries_are_records_too(tmp_path):
    with RecordLog(tmp_path / "m.jsonl", dict[str, float], lambda row: str(row["step"])) as log:
        assert log.append({"step": 1, "loss": 0.25})
        assert not log.append({"step": 1, "loss": 0.5})
        assert list(log) == [{"step": 1, "loss": 0.25}]


def test_an_id_is_written_once_also_after_opening_again(tmp_path):
    content = write_notes(tmp_path / "notes.jsonl", numbered(3))
    with open_notes(tmp_path / "notes.jsonl") as log:
        assert not log.append(Note("n1", "another text"))
        assert log.append(Note("n3"))
        assert not log.append(Note("n3"))
        assert len(log) == 4
    assert (tmp_path / "notes.jsonl").read_bytes().startswith(content)


def test_an_appended_record_can_be_read_at_once(tmp_path):
    with open_notes(tmp_path / "notes.jsonl") as log:
        log.append(Note("a", "first"))
        assert log[0] == Note("a", "first")
        assert list(log) == [Note("a", "first")]


def test_an_absent_file_has_no_records_and_stays_absent(tmp_path):
    with open_notes(tmp_path / "notes.jsonl") as log:
        assert len(log) == 0
        assert list(log) == []
        assert "n0" not in log
    assert list(tmp_path.iterdir()) == []


def test_positions_outside_the_file_are_refused(tmp_path):
    write_notes(tmp_path / "notes.jsonl", numbered(2))
    with open_notes(tmp_path / "notes.jsonl") as log:
        for position in (-1, 2):
            with pytest.raises(IndexError, match="has 2 records"):
                log[position]


def test_a_file_cut_off_at_any_byte_keeps_every_whole_record_and_takes_the_rest_again(tmp_path):
    notes = numbered(4)
    whole = write_notes(tmp_path / "whole.jsonl", notes)
    for cut in range(len(whole) + 1):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(whole[:cut])
        with open_notes(path) as log:
            survivors = whole[:cut].count(b"\n")
            assert list(log) == notes[:survivors]
            assert [log.append(note) for note in notes] == [
                number >= survivors for number in range(4)
            ]
        assert path.read_bytes() == whole


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, min_size=1, max_size=6), st.data())
def test_any_text_survives_a_torn_tail(some_texts, data):
    notes = [Note(f"{number}{text}", text) for number, text in enumerate(some_texts)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "notes.jsonl"
        whole = write_notes(path, notes)
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
        with open_notes(path) as log:
            for note in notes:
                log.append(note)
            assert list(log) == notes
        assert path.read_bytes() == whole


def test_a_torn_tail_is_said_and_stays_on_the_disk_until_something_is_appended(tmp_path, caplog):
    path = tmp_path / "notes.jsonl"
    content = write_notes(path, numbered(2)) + b'{"schema":1,"id'
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, "mulligan"), open_notes(path) as log:
        assert len(log) == 2
    assert "ends in half a line of 15 bytes" in caplog.text
    assert path.read_bytes() == content


def test_a_bad_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "notes.jsonl"
    lines = write_notes(path, numbered(3)).splitlines(keepends=True)
    for bad in (b"half a li\n", b"[]\n", b'{"id":"x"}\n', b'{"schema":1,"text":"no id"}\n'):
        path.write_bytes(lines[0] + bad + lines[2])
        with pytest.raises(MulliganError, match=r"notes\.jsonl, line 2 is not a record .* Fix"):
            open_notes(path)


def test_an_id_that_occurs_twice_is_named(tmp_path):
    path = tmp_path / "notes.jsonl"
    content = write_notes(path, numbered(2))
    path.write_bytes(content * 2)
    with pytest.raises(MulliganError, match="line 3: the id 'n0' occurs a second time"):
        open_notes(path)


def test_a_line_of_a_newer_version_is_refused_with_advice(tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_text(json.dumps({"schema": SCHEMA + 1, "id": "a", "new": "meaning"}) + "\n")
    with pytest.raises(MulliganError, match=r"newer Mulligan.* Install that version or a later"):
        open_notes(path)


def test_a_file_of_noise_is_refused_and_never_crashes(tmp_path):
    path = tmp_path / "notes.jsonl"
    noise = random.Random(0)
    deep = b'{"schema":1,"id":' + b"[" * 100_000 + b"\n"
    for line in [deep, *(noise.randbytes(noise.randrange(1, 60)) + b"\n" for _ in range(500))]:
        path.write_bytes(line)
        with pytest.raises(MulliganError, match="line 1"):
            open_notes(path)


def test_an_id_with_dots_and_slashes_stays_text(tmp_path):
    run = tmp_path / "run"
    write_notes(run / "notes.jsonl", [Note("../../evil"), Note("/etc/evil")])
    with open_notes(run / "notes.jsonl") as log:
        assert [note.id for note in log] == ["../../evil", "/etc/evil"]
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "notes.jsonl"]


def test_text_that_is_not_unicode_is_stored_with_a_question_mark_in_its_place(tmp_path):
    path = tmp_path / "notes.jsonl"
    write_notes(path, [Note("a", "é\ud800é", (math.inf,)), Note("b\udfff")])
    with open_notes(path) as log:
        assert list(log) == [Note("a", "é?é", (math.inf,)), Note("b?")]
        assert not log.append(Note("b\udfff"))


def test_a_reader_may_look_on_while_another_writes(tmp_path):
    path = tmp_path / "notes.jsonl"
    with open_notes(path) as writer:
        writer.append(Note("a"))
        with open_notes(path) as reader:
            writer.append(Note("b"))
            assert list(reader) == [Note("a")]
        with open_notes(path) as reader:
            assert list(reader) == [Note("a"), Note("b")]


def test_readers_beside_a_writer_see_whole_records_and_write_nothing(tmp_path, few_in_memory):
    path = tmp_path / "notes.jsonl"
    notes = numbered(2000, "x" * 2000)
    write_notes(path, notes[:20])

    def write():
        with open_notes(path) as log:
            for note in notes:
                log.append(note)

    writer = in_background(write)
    counts = []
    while not counts or counts[-1] < len(notes):
        with open_notes(path) as reader:
            assert list(reader) == notes[: len(reader)]
            assert reader[len(reader) - 1] == notes[len(reader) - 1]
            counts.append(len(reader))
    assert ended(writer) == 0
    assert len(set(counts)) > 2  # it looked on while records came
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        ".notes.jsonl.index",
        "notes.jsonl",
    ]


def test_opening_and_reading_a_long_file_writes_no_index(tmp_path, few_in_memory):
    path = tmp_path / "notes.jsonl"
    notes = numbered(47)
    write_notes(path, notes)
    (tmp_path / ".notes.jsonl.index").unlink()
    with open_notes(path) as log:
        assert [log[position] for position in range(47)] == notes
        assert "n46" in log
    assert [each.name for each in tmp_path.iterdir()] == ["notes.jsonl"]


def test_a_file_that_another_takes_the_place_of_is_read_to_its_own_end(tmp_path):
    path = tmp_path / "notes.jsonl"
    write_notes(path, numbered(3))
    with open_notes(path) as log:
        (tmp_path / "other.jsonl").write_bytes(write_notes(tmp_path / "o.jsonl", numbered(9, "!")))
        (tmp_path / "other.jsonl").replace(path)
        assert list(log) == numbered(3)


def test_the_newest_records_are_read_without_the_ones_before(tmp_path):
    path = tmp_path / "notes.jsonl"
    lines = write_notes(path, numbered(5)).splitlines(keepends=True)
    path.write_bytes(b"damaged\n" + b"".join(lines[1:]) + b'{"schema":1,"id":"to')
    assert newest_records(path, Note, 3) == numbered(5)[2:]
    assert newest_records(tmp_path / "absent", Note, 3) == []
    with pytest.raises(MulliganError, match=r"notes\.jsonl, byte 0 is not a record"):
        newest_records(path, Note, 9)


def test_records_are_found_by_their_ids_without_reading_the_others(tmp_path):
    path = tmp_path / "notes.jsonl"
    notes = [Note("a"), Note("quoted", 'says "b"'), Note('"b"\n'), Note("c")]
    content = write_notes(path, notes)
    path.write_bytes(b"damaged\n" + content + b'{"schema":1,"id":"c')
    found = find_records(path, Note, lambda note: note.id, {'"b"\n', "c", "absent"})
    assert found == {'"b"\n': notes[2], "c": notes[3]}
    assert find_records(tmp_path / "absent", Note, lambda note: note.id, {"a"}) == {}


def test_a_long_file_keeps_its_index_beside_it(tmp_path, few_in_memory):
    path = tmp_path / "notes.jsonl"
    notes = numbered(47)
    write_notes(path, notes)
    assert (tmp_path / ".notes.jsonl.index").stat().st_size == 16 + 40 * 16
    with open_notes(path) as log:
        assert [log[position] for position in range(47)] == notes
        assert not any(log.append(note) for note in notes)
        assert log.append(Note("n47"))


def test_a_short_file_has_no_index_beside_it(tmp_path):
    write_notes(tmp_path / "notes.jsonl", numbered(100))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.jsonl"]


@pytest.mark.parametrize("damage", ["absent", "empty", "noise", "cut", "foreign", "shuffled"])
def test_an_index_that_does_not_fit_is_made_again(tmp_path, few_in_memory, damage):
    path, beside = tmp_path / "notes.jsonl", tmp_path / ".notes.jsonl.index"
    notes = numbered(40)
    write_notes(path, notes)
    kept = beside.read_bytes()
    if damage == "absent":
        beside.unlink()
    elif damage == "foreign":
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[3:]))
        notes = notes[3:]
    else:
        damaged = {
            "empty": b"",
            "noise": random.Random(0).randbytes(len(kept)),
            "cut": kept[:-5],
            "shuffled": kept[:16] + kept[-16:] + kept[32:-16] + kept[16:32],
        }
        beside.write_bytes(damaged[damage])
    with open_notes(path) as log:
        assert [log[position] for position in range(len(log))] == notes
        assert not any(log.append(note) for note in notes)


def test_the_index_of_a_store_that_is_only_read_is_done_without(tmp_path, few_in_memory):
    with small_disk(tmp_path / "disk") as disk:
        notes = numbered(35)
        write_notes(disk / "notes.jsonl", notes)
        (disk / ".notes.jsonl.index").unlink()
        make_read_only(disk)
        with open_notes(disk / "notes.jsonl") as log:
            assert [log[position] for position in range(35)] == notes
            assert "n34" in log
            with pytest.raises(MulliganError, match="read-only"):
                log.append(Note("new"))
            assert list(log) == notes


def test_a_full_disk_loses_no_acknowledged_record_and_leaves_no_half_line(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "notes.jsonl"
        notes = numbered(2000, "x" * 1000)
        acknowledged = []

        def append_until_full(log):
            for note in notes:
                log.append(note)
                acknowledged.append(note)

        with open_notes(path) as log:
            with pytest.raises(MulliganError, match=r"notes\.jsonl: the disk is full\. Free some"):
                append_until_full(log)
            assert 500 < len(acknowledged) < 1100
            assert path.read_bytes().endswith(b"\n")
            assert list(log) == acknowledged
        with open_notes(path) as log:
            assert list(log) == acknowledged


def test_a_log_goes_on_once_there_is_space_again(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        with open_notes(disk / "notes.jsonl") as log:
            log.append(Note("a", "x" * 3000))
            ballast = fill(disk)
            with pytest.raises(MulliganError, match="the disk is full"):
                log.append(Note("b", "x" * 9000))
            ballast.unlink()
            assert log.append(Note("b", "x" * 9000))
        with open_notes(disk / "notes.jsonl") as log:
            assert [note.id for note in log] == ["a", "b"]


def test_a_file_that_may_not_be_read_or_written_is_named(tmp_path):
    write_notes(tmp_path / "mine.jsonl", numbered(1))
    write_notes(tmp_path / "shared.jsonl", numbered(1))

    def work():
        with pytest.raises(MulliganError, match=r"Cannot read .*permission denied"):
            open_notes(tmp_path / "mine.jsonl")
        with open_notes(tmp_path / "shared.jsonl") as log:
            assert list(log) == numbered(1)
            with pytest.raises(MulliganError, match=r"Cannot write .*permission denied"):
                log.append(Note("new"))

    let_everybody_in(tmp_path)
    (tmp_path / "mine.jsonl").chmod(0o600)
    as_nobody(work)


def kill_and_resume(path, notes, kills, longest):
    """Append the notes in processes that are killed; check the file after every kill."""
    clock = random.Random(0)

    def work(acknowledge):
        with open_notes(path) as log:
            for number, note in enumerate(notes):
                if log.append(note):
                    acknowledge(number)
        acknowledge(len(notes))

    for _ in range(kills):
        acknowledged = killed_after(clock.uniform(0, longest), work)
        with open_notes(path) as log:
            # Exactly a prefix: none lost, none twice, none out of order.
            assert list(log) == notes[: len(log)]
            assert all(number < len(log) for number in acknowledged if number < len(notes))
        yield len(acknowledged)


def test_killed_writers_lose_no_acknowledged_record_and_write_none_twice(tmp_path, few_in_memory):
    notes = numbered(1500, "x" * 20_000)
    whole = write_notes(tmp_path / "whole.jsonl", notes)
    path = tmp_path / "killed.jsonl"
    assert sum(kill_and_resume(path, notes, kills=10, longest=0.03)) > 10
    with open_notes(path) as log:
        for note in notes:
            log.append(note)
    assert path.read_bytes() == whole


@pytest.mark.slow
def test_two_hundred_kills_lose_no_acknowledged_record_and_write_none_twice(
    tmp_path, few_in_memory
):
    notes = numbered(12_000, "x" * 5000)
    whole = write_notes(tmp_path / "whole.jsonl", notes)
    path = tmp_path / "killed.jsonl"
    records = sum(kill_and_resume(path, notes, kills=200, longest=0.02))
    with open_notes(path) as log:
        for note in notes:
            log.append(note)
    assert path.read_bytes() == whole
    assert records > 1000
