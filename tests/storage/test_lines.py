from hypothesis import given
from hypothesis import strategies as st

from mulligan.storage.lines import count_lines, lines_backwards

LINES = st.lists(st.binary(max_size=9).filter(lambda line: b"\n" not in line), max_size=12)


@given(
    lines=LINES,
    torn=st.sampled_from([b"", b"half", b"a longer half line"]),
    block=st.integers(1, 9),
)
def test_lines_come_back_last_first_with_their_offsets_whatever_the_block(
    tmp_path_factory, lines, torn, block
):
    path = tmp_path_factory.mktemp("lines") / "log"
    path.write_bytes(b"".join(line + b"\n" for line in lines) + torn)

    found = list(lines_backwards(path, block=block))

    assert [line for _, line in found] == lines[::-1]
    content = path.read_bytes()
    assert all(content[offset:].startswith(line + b"\n") for offset, line in found)
    assert count_lines(path) == len(lines)


def test_reading_goes_on_before_the_line_that_was_read_last(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"first\nsecond\r\nthird\n")

    offsets = [offset for offset, _ in lines_backwards(path)]

    assert list(lines_backwards(path, before=offsets[0])) == [(6, b"second\r"), (0, b"first")]
    assert list(lines_backwards(path, before=0)) == []


def test_an_absent_file_has_no_lines(tmp_path):
    assert list(lines_backwards(tmp_path / "none")) == []
    assert count_lines(tmp_path / "none") == 0
