"""Run the study's open trainings in the order of the plan, several at once, and collect each when it ends.

    python examples/accuracy_study/run.py --per-gpu 3 --minutes 28

Needs nnUNet_preprocessed as `prepare.py` leaves it, nnUNet_raw and nnUNet_results, which holds no more than what is
running. A training whose scores are in the results is not repeated, on any machine; one that was interrupted goes on
from its last checkpoint where that still lies in nnUNet_results, and begins anew elsewhere.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import results
from plan import PLAN
from results import finished
from scripts import status_of
from sharing import prepare_environment, shared_batches, shared_gpus
from study_run import StudyRun, estimated_seconds

from nnunetv2_dsvm.cli.shared.arguments import positive
from nnunetv2_dsvm.cli.shared.interrupts import terminated_like_interrupted
from nnunetv2_dsvm.cluster.engines.gpus import visible_gpus
from nnunetv2_dsvm.cluster.engines.local_queue import LocalQueue
from nnunetv2_dsvm.cluster.engines.step_run import DONE, FAILED
from nnunetv2_dsvm.cluster.finished import is_trained
from nnunetv2_dsvm.cluster.locks import Owner, held
from nnunetv2_dsvm.cluster.progress import SUMMARY
from nnunetv2_dsvm.cluster.request import Request
from nnunetv2_dsvm.cluster.run_folder import LOCK, model_folder
from nnunetv2_dsvm.cluster.steps import Step
from nnunetv2_dsvm.cluster.trainers import check_trainers
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.listing import visible_files
from nnunetv2_dsvm.nnunet.folders import check_folder_variables


class Collector:
    """What the queue tells: a training that has ended well goes into the results, and its folder goes."""

    def __init__(self, run: StudyRun) -> None:
        self._run, self._begun = run, time.monotonic()
        self.failed = 0

    def started(self, step: Step, gpu: str | None) -> None:
        self._say(f"{step.name} begins")

    def waits(self, step: Step, owner: Owner) -> None:
        self._say(f"{step.name} is in the hands of {owner}")

    def ended(self, step: Step, status: int) -> None:
        self.collect()  # others may have ended at the same time
        if status == DONE and step.name not in replace(self._run).trainings:  # a copy, which reads the results anew
            self._say(f"{step.name} is finished")
        else:
            self.failed += 1
            lines = self._run.log(step.name).read_text(encoding="utf-8", errors="replace").splitlines()
            self._say("\n  ".join([f"{step.name} ended with status {status}:", *lines[-12:]]))

    def running(self) -> None:
        """Each training says in its log how far it is."""

    def collect(self) -> None:
        """Moves what finished trainings have left into the CSV files."""
        outcomes = visible_files(self._run.outcomes, ".json")
        if outcomes:
            results.add(self._run.results, [json.loads(path.read_text(encoding="utf-8")) for path in outcomes])
        for path in outcomes:
            if (step := self._run.steps.get(path.stem)) is not None and step.model is not None:
                shutil.rmtree(model_folder(step.model).fold_folder(step.fold), ignore_errors=True)
            path.unlink()

    def _say(self, line: str) -> None:
        print(f"{(time.monotonic() - self._begun) / 60:5.1f} min  {line}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=PLAN, metavar="JSON")
    parser.add_argument("--results", type=Path, default=results.RESULTS, metavar="FOLDER", help="of the CSV files")
    parser.add_argument("-device", "--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--gpus", nargs="+", metavar="N", help="default: all; on a CPU so many trainings at a time")
    parser.add_argument("--per-gpu", type=positive, default=1, metavar="N", help="trainings at a time on a GPU")
    parser.add_argument("--minutes", type=float, default=math.inf, metavar="M", help="of this call, which ends then")
    parser.add_argument("--lease", type=float, metavar="M",
                        help="begin nothing that would take longer; nnUNet_results stays so long "
                        "(default: --minutes)")  # fmt: skip
    parser.add_argument("--only", default="", metavar="TEXT", help="only trainings with TEXT in their names")
    parser.add_argument("--batches", type=Path, metavar="FOLDER",
                        help="augment batches once, into FOLDER, for all trainings of a data set, fold and seed: 3 to "
                        "50 GB of each, of this call alone (default: each augments its own)")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="show what is open, and how long it may take")
    args = parser.parse_args()
    check_folder_variables("raw", "preprocessed", "results")
    begun = time.monotonic()
    path = Path(os.environ["nnUNet_results"]).absolute() / "study"
    check_only(study_run(path, args))
    if args.list:
        return show_open(study_run(path, args), args.per_gpu)
    check_prepared(study_run(path, args))
    gpus = args.gpus or (visible_gpus() if args.device == "cuda" else ["0"])
    if not gpus:
        parser.error("no NVIDIA GPU was found (nvidia-smi -L): name some with --gpus, or train with -device cpu")
    places = len(gpus) * args.per_gpu
    prepare_environment(places, args.per_gpu)
    for folder in ("steps", "logs", "outcomes"):
        (path / folder).mkdir(parents=True, exist_ok=True)
    lease_ends = begun + 60 * (args.minutes if args.lease is None else args.lease)
    sharing = shared_gpus(args.device == "cuda" and args.per_gpu > 1)
    with terminated_like_interrupted(), held(path / LOCK, f"the study in {path}"), sharing:
        before = study_run(path, args)
        measure_what_is_trained(before)
        Collector(before).collect()
        run = study_run(path, args)
        check_trainers(request_of(run))
        collector, too_long = Collector(run), list[float]()

        def fits(step: Step) -> bool:
            seconds = estimated_seconds(run, run.trainings[step.name], args.per_gpu)
            in_time = time.monotonic() + seconds <= lease_ends
            if not in_time:
                too_long.append(seconds)
            return in_time

        try:
            until = begun + 60 * args.minutes
            with shared_batches(run, args.batches and args.batches.absolute(), places):
                LocalQueue(run, gpus, args.per_gpu, collector, until=until, fits=fits).work()
        finally:
            collector.collect()
    print(f"{len(study_run(path, args).trainings)} trainings are left", flush=True)
    if too_long:
        print(
            f"{len(too_long)} were not begun: they would have taken longer than the time that was left, the shortest "
            f"{min(too_long) / 60:.0f} min",
            flush=True,
        )
    return int(collector.failed > 0)


def measure_what_is_trained(run: StudyRun) -> None:
    """Measures what a call that was killed has left; what cannot be measured is validated again by the queue."""
    for step in filter(is_trained, run.steps.values()):
        if subprocess.run(run.command(step), check=False).returncode == FAILED and step.model is not None:
            (model_folder(step.model).validation_folder(step.fold) / SUMMARY).unlink(missing_ok=True)


def study_run(path: Path, args: argparse.Namespace) -> StudyRun:
    """As it stands now."""
    return StudyRun(path, args.plan.absolute(), args.results.absolute(), args.device, args.only)


def check_only(run: StudyRun) -> None:
    """Raises UserError where no training, finished or not, is named so."""
    if not any(run.only in training.name for training in run.plan.trainings(finished(run.results))):
        raise UserError(
            f"no training of the plan has {run.only!r} in its name: give a part of names such as "
            f"{next(iter(run.plan.trainings({}))).name} with --only (what results choose is named when they are there)"
        )


def check_prepared(run: StudyRun) -> None:
    """Raises UserError where a data set of the open trainings lacks the study's plans, which are written last."""
    preprocessed = Path(os.environ["nnUNet_preprocessed"])
    places = dict.fromkeys((training.dataset, training.plans) for training in run.trainings.values())
    missing = [dataset for dataset, plans in places if not (preprocessed / dataset / f"{plans}.json").is_file()]
    if missing:
        raise UserError(
            f"not prepared in {preprocessed}: {', '.join(dict.fromkeys(missing))}; run prepare.py first, or train by "
            "--only what needs no more than is there"
        )


def request_of(run: StudyRun) -> Request:
    """One that names all trainers, for the package's look whether nnU-Net finds them."""
    trainers = tuple(dict.fromkeys(training.trainer for training in run.trainings.values()))
    return Request((next(iter(run.plan.datasets)),), (run.plan.plans,), ("2d",), trainers, ("0",))


def show_open(run: StudyRun, per_gpu: int) -> int:
    """Prints what is open, stage by stage, each training where it comes first."""
    counted, done = set[str](), finished(run.results)
    for stage in run.plan.stages:
        new = [t for t in run.plan.open_of(stage, done) if t.name in run.trainings and t.name not in counted]
        counted |= {training.name for training in new}
        of = len(run.plan.trainings_of(stage, done))
        minutes = sum(estimated_seconds(run, training, per_gpu) for training in new) / 60
        print(f"{stage.name:20} {len(new):4} of {of:4} trainings, {minutes:6.0f} min one after the other")
    return 0


if __name__ == "__main__":
    sys.exit(status_of(main))
