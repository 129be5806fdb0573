"""`nnUNetv2_dsvm evaluate` inside this process, on invented label maps."""

import json

from helpers.evaluation_files import blobs
from nnunetv2_dsvm.cli.main import main

CASES = {f"case_{i}": (blobs(i), blobs(i + 100)) for i in range(3)}
DATASET, TRAINER, OTHER = "Dataset905_Mini", "nnUNetTrainerDSVM", "nnUNetTrainerVMUNet"


def evaluate(*arguments):
    return main(["evaluate", *map(str, arguments)])


def read(folder, stem="metrics_nnunet"):
    return json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))


def refused(capsys, *arguments):
    assert evaluate(*arguments) == 1
    return capsys.readouterr().err


def written(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*_nnunet.*")}
