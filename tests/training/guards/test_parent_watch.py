"""Processes that are spawned for a training end with it, also by SIGKILL; what other threads start does not."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest

from nnunetv2_dsvm.training.guards.processes import fork_to_end_with_this_one

PARENT = """
import multiprocessing, time
from nnunetv2_dsvm.training.guards.parent_watch import EndsWithParent

def wait(*sent):
    time.sleep(60)

if __name__ == "__main__":
    for sent in [EndsWithParent()], []:
        process = multiprocessing.get_context("{method}").Process(target=wait, args=sent, daemon=True)
        process.start()
        print(process.pid, flush=True)
    time.sleep(60)
"""


def is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat") as file:
        return file.read().split()[2] != "Z"  # ended, and nobody has asked


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_spawned_process_ends_with_its_killed_parent(tmp_path, method):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(method=method))
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, encoding="utf-8")
    watched, other = (int(parent.stdout.readline()) for _ in range(2))
    try:
        time.sleep(1)
        assert is_running(watched) and is_running(other)
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 10
        while is_running(watched) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not is_running(watched) and is_running(other)  # what happens without
    finally:
        for process in (watched, other):
            if is_running(process):
                os.kill(process, 9)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_what_another_thread_forks_meanwhile_outlives_that_thread():
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)

    def fork():
        child.start()
        time.sleep(0.3)  # the child has heard of its parent

    with fork_to_end_with_this_one():
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
    try:
        child.join(0.3)
        assert child.exitcode is None
    finally:
        child.kill()
