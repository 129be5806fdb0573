"""Processes that are spawned for a training end with it, also by SIGKILL."""

import os
import subprocess
import sys
import time

import pytest

PARENT = """
import multiprocessing, time
from nnunetv2_dsvm.training.parent_watch import EndsWithParent

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
