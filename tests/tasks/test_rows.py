import json

import pyarrow
import pyarrow.parquet
import pytest

from mulligan.errors import MulliganError
from mulligan.tasks.rows import read_rows

ROWS = [{"nums": [3, 4, 5], "target": 19}, {"nums": [12, 4], "target": 48}]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_json_lines_json_and_parquet_hold_the_same_rows(tmp_path):
    lines = "\n\n".join(json.dumps(row) for row in ROWS) + "\n"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    sources = [
        write(tmp_path / "rows.jsonl", lines),
        write(tmp_path / "lines.json", "\ufeff" + lines),
        write(tmp_path / "list.json", "\n" + json.dumps(ROWS, indent=1)),
        str(tmp_path / "rows.parquet"),
    ]
    for source in sources:
        assert [dict(row.values) for row in read_rows(source)] == ROWS


def test_a_row_knows_where_it_came_from(tmp_path):
    source = write(tmp_path / "rows.jsonl", '{"a": 1}\n\n{"a": 2}\n')
    assert [row.where for row in read_rows(source)] == [f"{source}, line 1", f"{source}, line 3"]


def test_a_missing_field_is_named_with_the_nearest_one(tmp_path):
    (row,) = read_rows(write(tmp_path / "rows.jsonl", '{"num": [1]}\n'))
    with pytest.raises(MulliganError, match=r"line 1.*no field 'nums'.*did you mean 'num'"):
        row.get("nums")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": \n', "line 2: not valid JSON"),
        ('{"a": NaN}\n', "line 1: not valid JSON"),
        ('{"a": ' + "[" * 100_000, "line 1: not valid JSON"),
        ('{"a": 1}\n7\n', "line 2: a row should be an object .* is int"),
        ('[{"a": 1}, [2]]', "row 2: a row should be an object .* is list"),
        ("[1", "not valid JSON"),
    ],
)
def test_a_broken_row_is_refused_by_its_place(tmp_path, text, message):
    with pytest.raises(MulliganError, match=message):
        list(read_rows(write(tmp_path / "rows.jsonl", text)))


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"a": "\xe9"}\n')
    write(tmp_path / "rows.parquet", "no parquet")
    for name in ("latin.jsonl", "rows.parquet"):
        with pytest.raises(MulliganError, match=f"cannot read .*{name}"):
            list(read_rows(str(tmp_path / name)))


def test_a_source_that_is_neither_file_nor_hub_id_is_refused(tmp_path):
    with pytest.raises(MulliganError, match="no such file"):
        read_rows(str(tmp_path / "nowhere.jsonl"))
    for source in (write(tmp_path / "rows.csv", "a\n1\n"), str(tmp_path), "only-a-name", "../a/b"):
        with pytest.raises(MulliganError, match="expected a file that ends in"):
            read_rows(source)


def test_a_hub_id_is_loaded_through_datasets(monkeypatch):
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        return ROWS

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    rows = list(read_rows("Jiayi-Pan/Countdown-Tasks-3to4"))
    assert asked == [("Jiayi-Pan/Countdown-Tasks-3to4", "train")]
    assert [dict(row.values) for row in rows] == ROWS
    assert rows[1].where == "Jiayi-Pan/Countdown-Tasks-3to4, row 2"


def test_a_hub_that_fails_says_what_to_do(monkeypatch):
    def load_dataset(name, split):
        raise ConnectionError("unreachable")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(MulliganError, match="unreachable; check the name and the network"):
        list(read_rows("owner/name"))
