import socket
import subprocess
import sys

from mulligan.trainer.launch import seen_to_live


def test_a_process_of_this_machine_is_seen_to_live_until_it_ends():
    here = socket.gethostname()
    process = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert seen_to_live(process.pid, here)
        assert not seen_to_live(process.pid, f"not-{here}")
        process.kill()
        process.stdin.close()
    finally:
        process.kill()
        process.wait()
    assert not seen_to_live(process.pid, here)
