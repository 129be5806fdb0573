"""Predict a new scan from Python, with the folds of a trained model as one ensemble.

    python examples/predict_new_scan.py MODEL_FOLDER OUTPUT IMAGE [IMAGE ...]

MODEL_FOLDER is $nnUNet_results/DatasetXXX_Name/nnUNetTrainerDSVM__nnUNetPlans__2d, OUTPUT the label map to write, with
the dataset's file ending; the images are the channels of one scan, in the order of dataset.json.
"""

import argparse
from pathlib import Path

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    predictor = nnUNetPredictor(device=torch.device(args.device), allow_tqdm=False)
    numbered = sorted(int(path.name[5:]) for path in args.model_folder.glob("fold_*") if path.name[5:].isdigit())
    predictor.initialize_from_trained_model_folder(str(args.model_folder), use_folds=numbered or ("all",))

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
