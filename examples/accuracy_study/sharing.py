"""What trainings that run at the same time share: GPUs, batches, and the variables in their environment."""

import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from study_run import BATCHES, BATCHES_LOCK, PER_GPU, StudyRun

from nnunetv2_dsvm.cluster.engines import child
from nnunetv2_dsvm.cluster.locks import held

TRAINERS = Path(__file__).parent / "trainers"
MPS = "nvidia-cuda-mps-control"
PIPE = "CUDA_MPS_PIPE_DIRECTORY"
USES_A_GPU = "import signal; signal.alarm(60); import torch; torch.zeros(1).cuda()"


@contextmanager
def shared_gpus(wanted: bool) -> Iterator[None]:
    """With NVIDIA's MPS, where its daemon can be started: processes then share a GPU at a time instead of in turns."""
    if not wanted or shutil.which(MPS) is None or PIPE in os.environ:  # the user's own daemon
        yield
        return
    with tempfile.TemporaryDirectory(prefix="mps_") as folder:
        variables = {PIPE: folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        with_mps = {**os.environ, **variables}
        try:
            subprocess.run([MPS, "-d"], env=with_mps, check=False)
            works = subprocess.run([sys.executable, "-c", USES_A_GPU], env=with_mps, check=False).returncode == 0
            print(f"{MPS}: {'in use' if works else 'does not work here, trainings take turns'}", flush=True)
            os.environ.update(variables if works else {})
            yield
        finally:
            subprocess.run([MPS], input="quit\n", text=True, env=with_mps, check=False)
            for name in variables:
                os.environ.pop(name, None)


@contextmanager
def shared_batches(run: StudyRun, folder: Path | None, places: int) -> Iterator[None]:
    """With a folder: another process augments batches there, once for all trainings that share them, which wait.

    Args:
        folder: None: each training augments its own.
        places: trainings at a time.

    Raises:
        Held: another call writes there, and nothing of what this one's trainings would wait for.
    """
    if folder is None:
        yield
        return
    with held(folder / BATCHES_LOCK, f"the folder of batches {folder}"):
        pass
    record = [sys.executable, str(Path(__file__).with_name("record.py")), str(run.path), str(run.plan_file)]
    path = os.pathsep.join([str(TRAINERS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    os.environ[BATCHES] = str(folder)
    command = [*record, str(run.results), run.only, str(folder), str(math.ceil(1.25 * places))]
    process = child.start(command, environment, run.path / "batches.log")
    try:
        yield
    finally:
        child.end([process])


def prepare_environment(places: int, per_gpu: int) -> None:
    """What all trainings find; what the user has set stays."""
    cores = os.cpu_count() or 1
    loaders = max(1, min(12, cores // places))
    trainers = [str(TRAINERS), *filter(None, [os.environ.get("nnUNet_extTrainer")])]
    os.environ["nnUNet_extTrainer"] = os.pathsep.join(trainers)
    os.environ[PER_GPU] = str(per_gpu)
    defaults = {
        "nnUNet_n_proc_DA": loaders, "nnUNet_def_n_proc": max(1, min(4, cores // places)), "OMP_NUM_THREADS": 1,
        "TORCHINDUCTOR_COMPILE_THREADS": loaders, "NNUNETV2_DSVM_SAVE_EVERY": 5,
    }  # fmt: skip
    for name, value in defaults.items():
        os.environ.setdefault(name, str(value))
    print(f"{places} trainings at once, {os.environ['nnUNet_n_proc_DA']} loading processes each", flush=True)
