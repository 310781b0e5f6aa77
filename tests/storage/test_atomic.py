import errno
import random

import pytest

from disk_faults import (
    as_nobody,
    ended,
    fill,
    in_background,
    killed_after,
    make_read_only,
    small_disk,
)
from mulligan.errors import MulliganError
from mulligan.storage.atomic import (
    disk_errors,
    inside,
    remove_folder,
    remove_leftovers,
    whole_folder,
    write_atomically,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_are_written_whole_and_nothing_else_is_left(tmp_path):
    write_atomically(tmp_path / "deep" / "a.txt", "größer\n")
    write_atomically(tmp_path / "deep" / "b.bin", b"\x00\xff")
    assert (tmp_path / "deep" / "a.txt").read_bytes() == "größer\n".encode()
    assert (tmp_path / "deep" / "b.bin").read_bytes() == b"\x00\xff"
    assert names(tmp_path / "deep") == ["a.txt", "b.bin"]


def test_a_killed_writer_leaves_the_old_content_or_the_new_one(tmp_path):
    target = tmp_path / "table.json"
    contents = [bytes([65 + number]) * 300_000 for number in range(26)]

    def work(acknowledge):
        for number in range(10**9):
            write_atomically(target, contents[number % 26])
            acknowledge(number)

    clock = random.Random(1)
    for _ in range(10):
        acknowledged = killed_after(clock.uniform(0, 0.02), work)
        number = contents.index(target.read_bytes())
        # The one in flight may have been renamed but not yet acknowledged.
        assert number in {acknowledged[-1] % 26, (acknowledged[-1] + 1) % 26}
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["table.json"]


def test_writers_of_the_same_file_never_mix_nor_get_in_each_others_way(tmp_path):
    target = tmp_path / "report.html"
    contents = [bytes([65 + number]) * 2_000_000 for number in range(4)]
    write_atomically(target, contents[0])

    def work(content):
        for _ in range(10):
            write_atomically(target, content)
            remove_leftovers(tmp_path)  # as a process does that takes over the run

    writers = [in_background(lambda content=content: work(content)) for content in contents]
    seen = [target.read_bytes() for _ in range(20)]
    assert [ended(each) for each in writers] == [0] * 4
    assert all(content in contents for content in seen)
    assert names(tmp_path) == ["report.html"]


def test_what_a_living_process_is_writing_is_not_tidied_away(tmp_path):
    with whole_folder(tmp_path / "step-1") as partial:
        remove_leftovers(tmp_path)
        assert partial.is_dir()
    assert names(tmp_path) == ["step-1"]


def test_a_full_disk_leaves_the_old_content_and_names_the_remedy(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        write_atomically(disk / "report.html", "old")
        fill(disk, leave=8192)
        with pytest.raises(MulliganError, match=r"report\.html: the disk is full\. Free some"):
            write_atomically(disk / "report.html", "x" * 100_000)
        assert (disk / "report.html").read_text() == "old"
        assert names(disk) == ["ballast", "report.html"]


def test_a_read_only_disk_is_named(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        write_atomically(disk / "report.html", "old")
        make_read_only(disk)
        with pytest.raises(MulliganError, match=r"read-only\. Choose a folder that can be written"):
            write_atomically(disk / "report.html", "new")
        assert (disk / "report.html").read_text() == "old"


def test_a_folder_without_permission_is_named(tmp_path):
    def work():
        with pytest.raises(MulliganError, match="permission denied"):
            write_atomically(tmp_path / "report.html", "new")

    tmp_path.chmod(0o555)
    as_nobody(work)
    assert names(tmp_path) == []


def test_a_folder_appears_only_when_it_is_whole(tmp_path):
    with whole_folder(tmp_path / "step-1") as partial:
        (partial / "a").write_text("1")
        assert not (tmp_path / "step-1").exists()
    assert names(tmp_path) == ["step-1"]


def test_a_folder_that_fails_in_the_middle_leaves_nothing(tmp_path):
    def fail_half_way():
        with whole_folder(tmp_path / "step-1") as partial:
            (partial / "a").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert names(tmp_path) == []


def test_leftovers_of_files_and_folders_are_removed_and_nothing_else(tmp_path):
    (tmp_path / ".step-3.partial").mkdir()
    (tmp_path / ".step-3.partial" / "a").write_text("half")
    (tmp_path / ".report.html.partial").write_text("half")
    (tmp_path / "keep.partial").write_text("a user's own")
    (tmp_path / "step-2").mkdir()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["keep.partial", "step-2"]


def test_a_leftover_that_is_a_link_is_removed_without_following_it(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("stays")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".step-1.partial").symlink_to(precious)
    remove_leftovers(run)
    assert names(run) == []
    assert (precious / "file").read_text() == "stays"


def test_removing_a_folder_that_is_not_there_does_nothing(tmp_path):
    remove_folder(tmp_path / "step-1")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["../out", "/etc/passwd", "a/../../out", "", ".", "a\0b", "link/x"]
)
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path)
    with pytest.raises(MulliganError, match="leaves the folder"):
        inside(tmp_path / "run", name)


def test_a_name_that_stays_in_the_folder_is_accepted(tmp_path):
    assert inside(tmp_path, "sub/..hidden") == tmp_path / "sub" / "..hidden"


def test_disk_errors_wrapped_by_other_libraries_are_understood(tmp_path):
    error = RuntimeError("Error while serializing: IoError(No space left (os error 28))")
    with pytest.raises(MulliganError, match="the disk is full"), disk_errors(tmp_path):
        raise error


def test_disk_errors_without_a_remedy_of_their_own_say_what_the_system_says(tmp_path):
    with pytest.raises(MulliganError, match=r"Cannot read .*: Is a directory"):  # noqa: SIM117
        with disk_errors(tmp_path, "read"):
            raise OSError(errno.EISDIR, "ignored")


def test_errors_that_are_not_the_disks_pass_through(tmp_path):
    with pytest.raises(ValueError, match="a defect"), disk_errors(tmp_path):
        raise ValueError("a defect")
