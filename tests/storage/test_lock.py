import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from disk_faults import as_nobody, make_read_only, small_disk
from mulligan.errors import MulliganError
from mulligan.storage.lock import NAME, hold
from mulligan.storage.lock import holder as who_holds

HOLDER = """
import sys, time
from pathlib import Path
from mulligan.storage.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process of its own that holds tmp_path."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_while_the_first_lives(tmp_path, holder):
    with pytest.raises(MulliganError, match=rf"in use by another process \(pid {holder.pid}\)"):  # noqa: SIM117
        with hold(tmp_path):
            pass


def test_a_second_process_takes_over_when_the_first_was_killed(tmp_path, holder):
    holder.kill()
    holder.wait()
    with hold(tmp_path):
        assert (tmp_path / NAME).read_text() == f"{os.getpid()}\n"


def test_holding_twice_in_one_process_is_refused_too(tmp_path):
    with hold(tmp_path):
        with pytest.raises(MulliganError, match=f"pid {os.getpid()}"), hold(tmp_path):
            pass
        # The refused one must not have let go of the first one's lock, nor of its signature.
        assert (tmp_path / NAME).read_text() == f"{os.getpid()}\n"


def test_the_lock_can_be_taken_again_after_it_was_let_go(tmp_path):
    for _ in range(3):
        with hold(tmp_path):
            pass


def test_a_released_lock_leaves_no_trace_of_the_process(tmp_path):
    with pytest.raises(RuntimeError), hold(tmp_path):
        raise RuntimeError
    assert (tmp_path / NAME).read_bytes() == b""


def test_a_missing_run_folder_is_made(tmp_path):
    with hold(tmp_path / "runs" / "one"):
        assert (tmp_path / "runs" / "one").is_dir()


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path):
    (tmp_path / ".report.html.partial").write_text("half")
    with hold(tmp_path):
        assert not (tmp_path / ".report.html.partial").exists()


def test_workers_that_outlive_a_killed_process_do_not_keep_its_lock(tmp_path):
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        with hold(tmp_path):
            worker = os.fork()
            if worker == 0:
                time.sleep(60)
                os._exit(0)
            os.write(writer, b"%d\n" % worker)
            time.sleep(60)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        worker = int(told.readline())
    time.sleep(0.1)  # the worker closes its copy as soon as it runs
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    try:
        with hold(tmp_path):
            os.kill(worker, 0)  # it still lives
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_forked_worker_that_ends_does_not_let_go_of_the_lock(tmp_path):
    with hold(tmp_path):
        as_nobody(lambda: None)
        command = [sys.executable, "-c", HOLDER, str(tmp_path)]
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode != 0
    assert "in use by another process" in second.stderr


def test_a_run_folder_on_a_read_only_disk_is_named(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        make_read_only(disk)
        with pytest.raises(MulliganError, match="read-only"), hold(disk / "run"):
            pass


def test_a_run_folder_without_permission_is_named(tmp_path):
    def work():
        with pytest.raises(MulliganError, match="permission denied"), hold(tmp_path / "run"):
            pass

    tmp_path.chmod(0o555)
    as_nobody(work)


def test_who_holds_a_folder_can_be_asked_without_touching_it(tmp_path, holder):
    assert who_holds(tmp_path) == holder.pid
    holder.kill()
    holder.wait()
    assert who_holds(tmp_path) is None  # the dead one's pid is still written there
    with hold(tmp_path):
        assert who_holds(tmp_path) == os.getpid()
    assert who_holds(tmp_path) is None
    assert who_holds(tmp_path / "none") is None


def test_a_look_at_the_very_moment_of_a_start_does_not_keep_it_from_starting(tmp_path):
    with hold(tmp_path):
        pass
    with (tmp_path / NAME).open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.01, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        with hold(tmp_path):
            pass
