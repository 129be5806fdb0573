"""The options of nnU-Net's commands with our trainers, and our models beside nnU-Net's own."""

import multiprocessing

import numpy as np
import pytest
import SimpleITK as sitk
import torch

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")


def labels_of(folder):
    """The labels that occur in each label map of a folder."""
    maps = sorted(folder.glob("*.nii.gz"))
    return [np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))).tolist() for path in maps]


# --- nnUNetv2_train ---------------------------------------------------------------------------------------------------


def test_val_best_validates_with_the_best_checkpoint(own_dataset):
    fold = own_dataset.results / "ShortBestFirst__tinyPlans__2d" / "fold_0"
    validated = []
    for options in (["--val_best"], ["--val"], ["--val", "--val_best", "--npz"]):
        own_dataset.train_here("ShortBestFirst", *options)
        validated += labels_of(fold / "validation")
        names = sorted(path.name for path in fold.glob("checkpoint*"))
        assert names == ["checkpoint_best.pth", "checkpoint_final.pth"]
        epochs = [torch.load(fold / name, weights_only=False)["current_epoch"] for name in names]
        assert epochs == [1, 3]
    assert validated == [[1], [0], [1]]
    probabilities = np.load(next((fold / "validation").glob("*.npz")))["probabilities"]
    assert probabilities.argmax(0).min() == 1
