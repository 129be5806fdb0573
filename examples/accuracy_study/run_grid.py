"""Run the trainings of a grid file, several at once, and collect their results.

    python examples/accuracy_study/run_grid.py examples/accuracy_study/grid_1.json --work WORK --out RESULTS

Needs nnU-Net's variables nnUNet_raw and nnUNet_preprocessed, as prepare_data.py left them. A training whose results lie
in RESULTS is not repeated, so that the command goes on where it stopped; one that was ended starts over.
"""

import argparse
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from grid import Training, read_grid, write_plans

from nnunetv2_dsvm.files.json_files import write_json
from nnunetv2_dsvm.nnunet.folders import check_folder_variables

TRAINERS = Path(__file__).parent / "trainers"
TRAIN = "from nnunetv2.run.run_training import run_training_entry as entry; entry()"
PREDICT = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point as entry; entry()"
DONE = "training.json"  # written last


@dataclass(frozen=True)
class Machine:
    """Where trainings run: the device as nnU-Net names it, data loading processes of each, and the last moments (of
    time.monotonic) at which one may start and may still run."""

    device: str
    loaders: int
    last_start: float
    end: float


def run(training: Training, machine: Machine, gpus: queue.SimpleQueue, work: Path, out: Path) -> str:
    """Train, predict, and copy the results to `out`; what came of it, in words."""
    gpu = gpus.get()
    try:
        if time.monotonic() > machine.last_start:
            return "not started, out of time"
        results, log_file = work / training.folder, out / training.folder / "log.txt"
        shutil.rmtree(results, ignore_errors=True)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        log_file.unlink(missing_ok=True)
        environment = _environment(training, machine, gpu, results)
        seconds = {}
        for step, command in _commands(training, machine.device, results).items():
            started = time.monotonic()
            status = _call(command, environment, log_file, machine.end)
            seconds[step] = time.monotonic() - started
            if status != 0:
                return f"{step} ended with status {status}, see {log_file}"
        _collect(training, results, out / training.folder, seconds)
        return f"done, {sum(seconds.values()):.0f} s"
    finally:
        gpus.put(gpu)


def _environment(training: Training, machine: Machine, gpu: str, results: Path) -> Mapping[str, str]:
    trainers = [str(TRAINERS), *filter(None, [os.environ.get("nnUNet_extTrainer")])]
    return {
        **os.environ,
        "nnUNet_results": str(results),
        "nnUNet_extTrainer": os.pathsep.join(trainers),
        "nnUNet_compile": "f",
        "nnUNet_n_proc_DA": str(machine.loaders),
        "nnUNet_def_n_proc": "1",
        "CUDA_VISIBLE_DEVICES": gpu,
        "NNUNETV2_DSVM_SEED": str(training.seed),
        "ACCURACY_STUDY_SETTINGS": json.dumps(dict(training.settings)),
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        "PYTHONUNBUFFERED": "1",
    }


def _commands(training: Training, device: str, results: Path) -> dict[str, list[str]]:
    number = str(int(training.dataset[7:10]))
    model = ["-tr", training.trainer, "-p", training.plans]
    commands = {"train": [sys.executable, "-c", TRAIN, number, "2d", training.fold, *model, "-device", device]}
    if training.test:
        images = Path(os.environ["nnUNet_raw"]) / training.dataset / "imagesTs"
        commands["predict"] = [
            sys.executable, "-c", PREDICT, "-d", number, "-i", str(images), "-o", str(results / "test"), "-c", "2d",
            *model, "-f", training.fold, "-npp", "1", "-nps", "1", "-device", device,
        ]  # fmt: skip
    return commands


def _call(command: list[str], environment: Mapping[str, str], log_file: Path, end: float) -> int | str:
    with open(log_file, "ab") as log:
        # a session of its own: nnU-Net's worker processes must end with it
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            return process.wait(timeout=max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "out of time"


def _collect(training: Training, results: Path, out: Path, seconds: Mapping[str, float]) -> None:
    (fold,) = results.glob("*/*/fold_*")
    for name in ("history.json", "facts.json"):
        shutil.copy(fold / name, out / name)
    for name, source in (("validation", fold / "validation"), ("test", results / "test")):
        shutil.rmtree(out / name, ignore_errors=True)
        if source.is_dir():
            shutil.copytree(source, out / name, ignore=shutil.ignore_patterns("*.npz", "*.pkl"))
    shutil.rmtree(results)  # checkpoints: 27 million parameters each
    content = {**asdict(training), "plans": training.plans, "seconds": dict(seconds)}
    write_json(out / DONE, content, indent=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, nargs="+")
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER", help="for checkpoints, emptied")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for results")
    parser.add_argument("-device", "--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--gpus", default="0", metavar="0,1", help="their numbers (default: %(default)s)")
    parser.add_argument("--at-once", type=int, default=4, metavar="N", help="trainings per GPU (default: %(default)s)")
    parser.add_argument("--loaders", type=int, metavar="N",
                        help="data loading processes per training (default: the cores, shared out)")  # fmt: skip
    parser.add_argument("--start-minutes", type=float, default=1e6, metavar="M", help="start none after these")
    parser.add_argument("--minutes", type=float, default=1e6, metavar="M", help="end all that still run after these")
    parser.add_argument("--only", default="", metavar="TEXT", help="only trainings with TEXT in DATASET/RUN/seed_N")
    args = parser.parse_args()
    check_folder_variables("raw", "preprocessed")

    slots = args.gpus.split(",") * args.at_once
    gpus: queue.SimpleQueue = queue.SimpleQueue()
    for gpu in slots:
        gpus.put(gpu)
    now = time.monotonic()
    loaders = args.loaders or max(1, (os.cpu_count() or 1) // len(slots))
    machine = Machine(args.device, loaders, now + 60 * args.start_minutes, now + 60 * args.minutes)
    trainings = [training for grid in args.grid for training in read_grid(grid) if args.only in str(training.folder)]
    waiting = [training for training in trainings if not (args.out / training.folder / DONE).is_file()]
    print(f"{len(trainings)} trainings, {len(waiting)} to do, {len(slots)} at once, {loaders} loaders each", flush=True)
    for training in waiting:
        write_plans(training, Path(os.environ["nnUNet_preprocessed"]))
    with ThreadPoolExecutor(len(slots)) as executor:
        futures = {executor.submit(run, training, machine, gpus, args.work, args.out): training for training in waiting}
        for future in as_completed(futures):
            minutes = (time.monotonic() - now) / 60
            print(f"{minutes:5.1f} min  {futures[future].folder}: {future.result()}", flush=True)


if __name__ == "__main__":
    main()
