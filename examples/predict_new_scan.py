"""Predict a new scan from Python, with the finished folds of a trained model as one ensemble.

    python examples/predict_new_scan.py MODEL_FOLDER OUTPUT IMAGE [IMAGE ...]

MODEL_FOLDER is $nnUNet_results/DatasetXXX_Name/nnUNetTrainerDSVM__nnUNetPlans__2d, OUTPUT the label map to write, with
the dataset's file ending; the images are the channels of one scan, in the order of dataset.json.
"""

import argparse
import sys
from pathlib import Path

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

CHECKPOINT = "checkpoint_final.pth"


def finished_folds(model_folder: Path) -> list[int] | list[str]:
    """The folds that are trained to their end: the numbered ones, or else `all`; exits where there are none."""
    found = {path.name.removeprefix("fold_"): path for path in sorted(model_folder.glob("fold_*")) if path.is_dir()}
    names = [name for name, path in found.items() if (path / CHECKPOINT).is_file()]
    numbered = sorted(int(name) for name in names if name.isdecimal())
    if not numbered and "all" not in names:
        folds = ", ".join(found) or "no fold at all"
        sys.exit(f"{model_folder} has no finished fold, with {CHECKPOINT} (it has {folds}): finish a training first")
    return numbered or ["all"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    folds = finished_folds(args.model_folder)
    print(f"Finished folds: {', '.join(map(str, folds))}")
    predictor = nnUNetPredictor(device=torch.device(args.device), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(args.model_folder), use_folds=folds, checkpoint_name=CHECKPOINT)

    reader = predictor.plans_manager.image_reader_writer_class()
    image, properties = reader.read_images([str(path) for path in args.images])
    labels = predictor.predict_single_npy_array(image, properties)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    reader.write_seg(labels, str(args.output), properties)

    for name, value in predictor.dataset_json["labels"].items():
        if name != "background" and isinstance(value, int):
            print(f"{name}: {(labels == value).sum()} voxels")


if __name__ == "__main__":
    main()
