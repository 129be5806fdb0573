"""Write PH2 as nnU-Net's raw data set Dataset017_PH2, at half size.

    python examples/accuracy_study/ph2.py "PH2Dataset/PH2 Dataset images"

Needs nnUNet_raw. The folder has one folder a lesion, IMD002 and so on, with `IMD002_Dermoscopic_Image/IMD002.bmp` and
`IMD002_lesion/IMD002_lesion.bmp`. Images are averaged over 2×2 pixels, and what is lesion in half of them is lesion.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scripts import status_of

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.atomic_write import replaced_folder
from nnunetv2_dsvm.files.json_files import write_json
from nnunetv2_dsvm.files.listing import visible_folders
from nnunetv2_dsvm.nnunet.folders import check_folder_variables
from nnunetv2_dsvm.nnunet.names import DATASET_JSON, TRAINING_IMAGES, TRAINING_LABELS

DATASET = "Dataset017_PH2"
DESCRIPTION = "PH2, dermoscopic images at half size (Mendonça et al. 2013, research use)"


def write_ph2(source: Path, folder: Path) -> int:
    """Writes all lesions of a folder; how many.

    Raises:
        UserError: there are none, or one lacks a file.
    """
    lesions = visible_folders(source, "IMD")
    if not lesions:
        raise UserError(f"{source} has no folder IMD002 or the like: name PH2Dataset's `PH2 Dataset images`")
    with replaced_folder(folder) as partial:
        for name in (TRAINING_IMAGES, TRAINING_LABELS):
            (partial / name).mkdir()
        for lesion in lesions:
            image = lesion / f"{lesion.name}_Dermoscopic_Image" / f"{lesion.name}.bmp"
            mask = lesion / f"{lesion.name}_lesion" / f"{lesion.name}_lesion.bmp"
            if missing := [str(path) for path in (image, mask) if not path.is_file()]:
                raise UserError(f"{', '.join(missing)} is missing")
            halved(Image.open(image).convert("RGB")).save(partial / TRAINING_IMAGES / f"{lesion.name}_0000.png")
            share = np.asarray(halved(Image.open(mask).convert("L")))
            label = Image.fromarray((share >= 128).astype(np.uint8))
            label.save(partial / TRAINING_LABELS / f"{lesion.name}.png")
        content = {
            "channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "lesion": 1},
            "numTraining": len(lesions), "file_ending": ".png", "description": DESCRIPTION,
        }  # fmt: skip
        write_json(partial / DATASET_JSON, content, indent=1)
    return len(lesions)


def halved(image: Image.Image) -> Image.Image:
    return image.reduce(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    check_folder_variables("raw")
    place = Path(os.environ["nnUNet_raw"]) / DATASET
    print(f"{write_ph2(args.folder, place)} images in {place}")


if __name__ == "__main__":
    sys.exit(status_of(main))
