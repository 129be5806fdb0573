"""Write and preprocess the study's two datasets, with five folds and what needs no training for the table.

    python examples/accuracy_study/prepare_data.py --templates /usr/share/mricron/templates

Needs nnU-Net's variables nnUNet_raw and nnUNet_preprocessed, Debian's package mricron-data (`--templates` names the
folder in it), and for the CT a network or its archive in the cache (38 MB). nnU-Net's own plans are used as they are.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from colin27 import write_colin27, write_mirrored_label

from nnunetv2_dsvm.datasets.splits import write_grouped_splits
from nnunetv2_dsvm.nnunet.folders import check_folder_variables
from nnunetv2_dsvm.quickstart.result import write_baselines
from nnunetv2_dsvm.quickstart.totalsegmentator_example import slab_of, write_totalsegmentator_example

CT, COLIN27 = "Dataset900_DSVMQuickstart", "Dataset902_Colin27"
# Each fold leaves out one block of neighbouring slices, with a guard between it and the others. Only blocks 3 and 4 of
# the CT show all organs: everything is chosen on fold 3.
GROUP_OF: dict[str, Callable[[str], str]] = {CT: slab_of, COLIN27: str}


def plan_and_preprocess(dataset: str) -> None:
    entry = (
        "from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry as e; e()"
    )
    command = [sys.executable, "-c", entry, "-d", str(int(dataset[7:10])), "-c", "2d", "--verify_dataset_integrity"]
    subprocess.run([*command, "-np", "2", "-npfp", "2"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--templates", type=Path, default=Path("/usr/share/mricron/templates"), metavar="FOLDER")
    args = parser.parse_args()
    check_folder_variables("raw", "preprocessed")
    raw, preprocessed = (Path(os.environ[name]) for name in ("nnUNet_raw", "nnUNet_preprocessed"))
    raw.mkdir(parents=True, exist_ok=True)
    write_colin27(args.templates, raw / COLIN27)
    write_mirrored_label(args.templates, raw / COLIN27 / "baselines" / "mirrored_label")
    write_totalsegmentator_example(raw / CT)
    write_baselines(raw / CT, raw / CT / "baselines")
    for dataset, group_of in GROUP_OF.items():
        plan_and_preprocess(dataset)
        write_grouped_splits(preprocessed / dataset, group_of)


if __name__ == "__main__":
    main()
