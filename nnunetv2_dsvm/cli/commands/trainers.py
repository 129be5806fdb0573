"""`nnUNetv2_dsvm trainers`: what can be named to `-tr`, of this package and of the user's folders."""

import argparse
import json
import sys
from itertools import groupby

from nnunetv2_dsvm.autoregister import VARIABLE
from nnunetv2_dsvm.diagnostics.trainer_list import ListedTrainer, TrainerList, list_trainers
from nnunetv2_dsvm.files.text import aligned
from nnunetv2_dsvm.host.versions import PACKAGE

HEADINGS = ("-tr", "network", "2D/3D", "terms", "optimiser", "epochs", "")
WIDTH = 60  # of a docstring's line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Lists the trainers that nnU-Net finds of this package and of your folders (nnUNet_extTrainer, nnU-Net's own): "
        "network, loss terms with their weights, optimiser, epochs, and the first line of the docstring. All modules "
        "there are imported, in a process of their own. The exit status is 1 if one is broken, else 0."
    )
    parser.add_argument("text", nargs="?", default="", metavar="TEXT", help="only trainers whose name contains it")
    parser.add_argument("--json", action="store_true", help="print everything that was found as JSON")


def run(args: argparse.Namespace) -> int:
    if not args.json:
        print("Importing the trainers, which takes up to a minute …", file=sys.stderr, flush=True)
    everything = list_trainers()
    asked = everything.named(args.text)
    if args.json:
        print(json.dumps(asked.as_dict(), indent=2))
        return 1 if everything.broken else 0
    print(_as_text(asked))
    if args.text and not asked.trainers:
        print(f"\nNone of {len(everything.trainers)} trainers has {args.text!r} in its name.")
    if not any(trainer.place == PACKAGE for trainer in everything.trainers):
        print(f"\nnnU-Net finds no trainer of {PACKAGE}: nnUNetv2_dsvm doctor says why.")
    return 1 if everything.broken else 0


def _as_text(found: TrainerList) -> str:
    lines = []
    for place, trainers in groupby(found.trainers, key=lambda trainer: trainer.place):
        lines += ["", place, aligned([HEADINGS, *map(_row, trainers)], left=len(HEADINGS))]
    if found.broken:
        lines += ["", "broken"]
    for module in found.broken:
        lines.append(f"{module.file}: {module.error}")
        if module.stops:
            stopped = sum(trainer.stopped_by == module.file for trainer in found.trainers)
            misses = f" and does not reach {stopped} of these trainers" if stopped else ""
            lines.append(f"  → nnU-Net's look-up ends there{misses}: repair the file, or take it out of the folder")
    if found.folders:
        lines += ["", "folders"]
    lines += [f"{VARIABLE} {finding.detail}\n  → {finding.advice}" for finding in found.folders]
    return "\n".join(lines).lstrip("\n")


def _row(trainer: ListedTrainer) -> list[str]:
    """Cells under the headings; a trainer without our layers has its bases in the place of what is not known."""
    short = trainer.short or {"network": f"extends {', '.join(trainer.bases)}"}
    what = [short.get(key, "") for key in ("network", "dimensions", "terms", "optimiser", "epochs")]
    summary = trainer.summary if len(trainer.summary) <= WIDTH else f"{trainer.summary[: WIDTH - 1].rstrip()}…"
    if trainer.hidden_by:
        summary = f"not reached: nnU-Net takes the one in {trainer.hidden_by}"
    elif trainer.stopped_by:
        summary = f"not reached: {trainer.stopped_by} is broken"
    return [trainer.name, *what, summary]
