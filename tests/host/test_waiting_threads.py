"""Processes that share CPUs: waiting OpenMP threads sleep, from when others compete for the CPUs, and not before."""

import json
import os
import subprocess
import sys

import pytest
import torch

from nnunetv2_dsvm.host import waiting_threads

# The CPU time of 20 operations on two threads, with pauses in which the second thread waits for more: before and after.
PROGRAM = """
import itertools, json, os, resource, sys, threading, time, types
import torch
from nnunetv2_dsvm.host import waiting_threads
from nnunetv2_dsvm.architecture.vm_unet import VMUNet

def cpu_s():
    x, start = torch.zeros(2**17), time.process_time()
    for _ in range(20):
        x.add_(1)
        time.sleep(0.02)
    return time.process_time() - start

os.sched_getaffinity = lambda pid: range(int(sys.argv[2]))
losses = itertools.count(step=int(sys.argv[1]))
resource.getrusage = lambda who: types.SimpleNamespace(ru_nivcsw=next(losses))
waiting_threads.WINDOW_S = 0.01
before, threads = cpu_s(), len(os.listdir("/proc/self/task"))
VMUNet(1, 2, dims=(4, 8), encoder_depths=(1, 1), decoder_depths=(1, 1), d_state=1)(torch.zeros(1, 1, 8, 8))
time.sleep(0.5)
watched = any(t.name == "nnunetv2_dsvm-openmp" for t in threading.enumerate())
more = len(os.listdir("/proc/self/task")) - threads
kept = torch.get_num_threads()
print(json.dumps({"before": before, "after": cpu_s(), "watched": watched, "more": more, "kept": kept}))
"""


CPUS = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def run(losses, cpus, **variables):
    unset = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"OMP_NUM_THREADS": str(CPUS), **variables}
    command = [sys.executable, "-c", PROGRAM, str(losses), str(cpus)]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux" or CPUS < 2, reason="libgomp on two CPUs or more")
class TestWaiting:
    @pytest.mark.parametrize("cpus", [CPUS, 2 * CPUS], ids=["a thread a CPU", "two CPUs a thread"])
    def test_threads_sleep_in_a_crowd(self, cpus):
        cpu = run(losses=100, cpus=cpus)
        assert cpu["watched"] and cpu["after"] < 0.3 * cpu["before"]
        assert CPUS - 1 + cpu["more"] > cpus  # the watching thread is one of them, and not OpenMP's
        assert cpu["kept"] == CPUS

    def test_threads_spin_alone(self):
        cpu = run(losses=0, cpus=CPUS)
        assert cpu["watched"] and cpu["after"] > 0.5 * cpu["before"]


@pytest.mark.parametrize(
    ("variables", "threads", "watched"),
    [({}, 2, True), ({"GOMP_SPINCOUNT": "9"}, 2, False), ({"OMP_WAIT_POLICY": "active"}, 2, False), ({}, 1, False)],
)
def test_what_the_user_has_set_stays(monkeypatch, variables, threads, watched):
    started = []
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(waiting_threads, "started_in", None)
    monkeypatch.setattr(waiting_threads.sys, "platform", "linux")
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(waiting_threads.threading.Thread, "start", lambda thread: started.append(thread.name))
    waiting_threads.sleep_when_crowded()
    waiting_threads.sleep_when_crowded()
    assert started == ["nnunetv2_dsvm-openmp"] * watched
