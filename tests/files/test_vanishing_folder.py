"""A folder that goes with its process, however that ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from nnunetv2_dsvm.files.vanishing_folder import vanishing

WORK = """
import sys, time
from pathlib import Path
from nnunetv2_dsvm.files.vanishing_folder import vanishing

folder = Path(sys.argv[1])
folder.mkdir()
with vanishing(folder):
    (folder / "scan").touch()
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="another system's way to end a process")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_after_a_signal_to_the_process_and_all_it_started(tmp_path, name):
    folder = tmp_path / "folder"
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout.readline() == b"ready\n" and (folder / "scan").exists()
    os.killpg(process.pid, getattr(signal, name))
    process.wait()
    deadline = time.monotonic() + 60
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_at_its_end_and_after_an_exception(tmp_path):
    for error in (None, KeyError("x")):
        folder = tmp_path / "folder"
        folder.mkdir()
        try:
            with vanishing(folder):
                (folder / "scan").touch()
                if error:
                    raise error
        except KeyError:
            pass
        assert not folder.exists()
