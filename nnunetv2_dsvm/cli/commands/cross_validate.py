"""`nnUNetv2_dsvm cross_validate`: folds × trainers × configurations in one call, on this machine or on SLURM."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_dsvm.cli.shared.arguments import CONFIGURATION, PLANS, check_options, positive
from nnunetv2_dsvm.cli.shared.interrupts import terminated_like_interrupted
from nnunetv2_dsvm.cli.shared.steps import shown_steps
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.text import aligned

if TYPE_CHECKING:
    from nnunetv2_dsvm.cluster.engines.slurm import SlurmOptions
    from nnunetv2_dsvm.cluster.status import StepStatus

DESCRIPTION = """\
Trains every trainer in every configuration on every fold by nnU-Net's own commands, and ends with one table: Dice with
confidence intervals, paired differences, GPU memory, hours, parameters. Before that it plans and preprocesses what is
missing; after it, of several folds, it finds the best configuration and predicts imagesTs with the ensemble.

The same command again does what is missing: finished folds are left alone, interrupted ones go on. Ctrl-C leaves no
process behind; jobs on SLURM go on without this command. --status shows where it stands, --cancel ends it."""

_OF_SLURM = ("partition", "cpus_per_job", "mem_gb", "time", "max_jobs", "sbatch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.usage = (
        "nnUNetv2_dsvm cross_validate -d ID [ID ...] -tr TRAINER [TRAINER ...] [-c 2d] [-f 0 1 2 3 4] [options]\n"
        "       nnUNetv2_dsvm cross_validate --status | --cancel [-o FOLDER] [--json]"
    )
    what = parser.add_argument_group("what is compared")
    what.add_argument("-d", nargs="+", metavar="ID", help="data sets, numbers or names")
    what.add_argument("-tr", nargs="+", metavar="TRAINER", help="trainers, nnU-Net's own too")
    what.add_argument("-c", nargs="+", metavar="CONFIGURATION", help=f"configurations (default: {CONFIGURATION})")
    what.add_argument("-p", nargs="+", metavar="PLANS", help=f"plans (default: {PLANS})")
    what.add_argument(
        "-f", nargs="+", metavar="FOLD", help="folds, numbers or all (default: those of splits_final.json)"
    )
    what.add_argument("--seeds", nargs="+", type=int, metavar="N",
                      help="train each with these seeds; the results lie in seed_N below nnUNet_results")  # fmt: skip
    what.add_argument("--protocol", nargs="+", choices=("isic", "synapse"), metavar="NAME",
                      help="measure by a paper's protocol too: isic, synapse")  # fmt: skip
    where = parser.add_argument_group("where it runs")
    where.add_argument(
        "-device", "--device", choices=("cuda", "cpu", "mps"), help="as nnU-Net names it (default: cuda)"
    )
    where.add_argument("--minutes", type=float, metavar="M",
                       help="interrupt what still runs after these; the same command goes on later")  # fmt: skip
    where.add_argument("--gpus", nargs="+", metavar="N",
                       help="GPUs to use (default: all); with -device cpu so many trainings at a time")  # fmt: skip
    where.add_argument("--per-gpu", type=positive, metavar="N", help="trainings at a time on a GPU (default: 1)")
    where.add_argument("--cluster", choices=("slurm",),
                       help="submit jobs instead (pip install 'nnunetv2_dsvm[cluster]')")  # fmt: skip
    slurm = parser.add_argument_group("with --cluster slurm")
    slurm.add_argument("--partition", metavar="NAME")
    slurm.add_argument("--gpus-per-job", type=positive, metavar="N", help="of a training (default: 1)")
    slurm.add_argument("--cpus-per-job", type=positive, metavar="N")
    slurm.add_argument("--mem-gb", type=float, metavar="GB")
    slurm.add_argument("--time", type=_minutes, metavar="HH:MM:SS",
                       help="of a job; a longer training goes on in the next one (default: 24:00:00)")  # fmt: skip
    slurm.add_argument("--max-jobs", type=positive, metavar="N", help="jobs at a time (default: as many as there are)")
    slurm.add_argument("--sbatch", nargs="+", type=_setting, metavar="NAME=VALUE",
                       help="other options of sbatch, such as account=lab constraint=a100")  # fmt: skip
    parser.add_argument("-o", type=Path, metavar="FOLDER",
                        help="for states, logs, table, report (default: below nnUNet_results)")  # fmt: skip
    parser.add_argument("--status", action="store_true", help="show where it stands")
    parser.add_argument("--cancel", action="store_true", help="end it, here or on SLURM")
    parser.add_argument("--json", action="store_true", help="show the status as JSON")


def run(args: argparse.Namespace) -> int:
    if sys.platform == "win32":
        raise UserError("cross_validate needs Linux or macOS: Windows has neither its locks nor its signals")
    from nnunetv2_dsvm.cluster.api import cancel, cross_validate, status

    if args.status or args.cancel:
        asked = ("d", "tr", "c", "p", "f", "seeds", "protocol", "device", "gpus", "per_gpu", "minutes", "cluster",
                 "gpus_per_job")  # fmt: skip
        check_options(
            args, (*asked, *_OF_SLURM), "belong to a call that trains; --status and --cancel take -o and --json"
        )
        if args.cancel:
            names = cancel(args.o)
            said = ", ".join(names) if names else "nothing, for nothing of it is running"
            print(f"Cancelled: {said}", file=sys.stderr)
        steps = status(args.o)
        for step in steps if args.status else []:
            if step.tail:
                print(f"\nThe end of {step.log}:", *step.tail, sep="\n  ", file=sys.stderr)
        return _shown(steps, as_json=args.json)
    if not args.d or not args.tr:
        raise UserError("name a data set and a trainer: -d ID -tr TRAINER")
    if args.cluster is None:
        check_options(args, (*_OF_SLURM, "gpus_per_job"), "belong to --cluster slurm")
    else:
        check_options(args, ("gpus", "per_gpu", "minutes"), "belong to a call without --cluster")
    with terminated_like_interrupted(), shown_steps("nnunetv2_dsvm.cluster", form="%(asctime)s %(message)s"):
        steps = cross_validate(
            args.d,
            args.tr,
            configurations=args.c or [CONFIGURATION],
            plans=args.p or [PLANS],
            folds=args.f,
            seeds=args.seeds or [],
            device=args.device or "cuda",
            protocols=args.protocol or [],
            gpus=args.gpus,
            per_gpu=args.per_gpu or 1,
            gpus_per_job=args.gpus_per_job or 1,
            slurm_options=_slurm_options(args) if args.cluster else None,
            minutes=args.minutes,
            output=args.o,
        )
    return _shown(steps, as_json=args.json)


def _shown(steps: Sequence["StepStatus"], *, as_json: bool) -> int:
    """Prints a line a step; the exit status is 1 where one failed."""
    if as_json:
        print(json.dumps([step.as_json() for step in steps], indent=1))
    else:
        print(aligned([[step.step, step.state, step.job, step.in_short()] for step in steps], left=4))
    return int(any(step.state == "failed" for step in steps))


def _slurm_options(args: argparse.Namespace) -> "SlurmOptions":
    from nnunetv2_dsvm.cluster.engines.slurm import SlurmOptions

    given = {
        "partition": args.partition, "cpus_per_job": args.cpus_per_job, "mem_gb": args.mem_gb, "minutes": args.time,
        "max_jobs": args.max_jobs, "more": dict(args.sbatch or []),
    }  # fmt: skip
    return SlurmOptions(**{name: value for name, value in given.items() if value is not None})


def _minutes(text: str) -> int:
    from nnunetv2_dsvm.cluster.engines.slurm import minutes_of

    try:
        return minutes_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _setting(text: str) -> tuple[str, str]:
    name, is_said, value = text.partition("=")
    if not name or not is_said:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value
