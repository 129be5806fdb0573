"""Small copies of the papers' datasets, laid out and named as downloaded, with litter, and nnU-Net's side."""

from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk
from PIL import Image

from helpers.litter import scatter
from helpers.quick_nnunet import QuickFingerprint, threads_for_processes
from nnunetv2_dsvm.cli.main import main

ISIC_SIZE = (60, 44)  # width, height
BTCV_TRAINING = ("0005", "0006", "0007", "0009", "0010", "0021", "0023", "0024", "0026", "0027", "0028", "0030", "0031",
                 "0033", "0034", "0037", "0039", "0040")  # fmt: skip
BTCV_TEST = ("0001", "0002", "0003", "0004", "0008", "0022", "0025", "0029", "0032", "0035", "0036", "0038")


def lesion(seed: int, size: tuple[int, int] = ISIC_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """An RGB image (H, W, 3) with a dark ellipse, and its mask (H, W) of 0 and 255; the last column is lesion too."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(size[::-1])
    cy, cx = rng.uniform(0.4, 0.6, 2) * size[::-1]
    mask = ((y - cy) / (size[1] / 4)) ** 2 + ((x - cx) / (size[0] / 5)) ** 2 < 1
    mask[:, -1] = True
    image = np.where(mask[..., None], (110, 60, 40), (220, 170, 150)) + rng.integers(-9, 10, (*mask.shape, 3))
    return image.astype(np.uint8), mask.astype(np.uint8) * 255


def isic_official(root: Path, year: int, counts=(5, 2, 2)) -> Path:
    """The challenge's folders with superpixels, metadata and licence."""
    first = 0
    for part, count in zip(("Training", "Validation", "Test"), counts, strict=True):
        if year == 2017:
            part = "Test_v2" if part == "Test" else part
            images, masks = root / f"ISIC-2017_{part}_Data", root / f"ISIC-2017_{part}_Part1_GroundTruth"
        else:
            images, masks = root / f"ISIC2018_Task1-2_{part}_Input", root / f"ISIC2018_Task1_{part}_GroundTruth"
        images.mkdir(parents=True)
        masks.mkdir()
        for number in range(first, first + count):
            image, mask = lesion(number)
            Image.fromarray(image).save(images / f"ISIC_{number:07d}.jpg", quality=95)
            Image.fromarray(mask).save(masks / f"ISIC_{number:07d}_segmentation.png")
            if year == 2017:
                Image.fromarray(image[::-1]).save(images / f"ISIC_{number:07d}_superpixels.png")
        (images / f"ISIC-{year}_metadata.csv").write_text("image_id,age_approximate,sex\n")
        (masks / "LICENSE.txt").write_text("CC-0")
        first += count
    scatter(root)
    return root


def isic_seven_to_three(root: Path, counts=(5, 3)) -> Path:
    """VM-UNet's png folders; the masks are named like the images."""
    first = 0
    for part, count in zip(("train", "val"), counts, strict=True):
        for kind in ("images", "masks"):
            (root / part / kind).mkdir(parents=True)
        for number in range(first, first + count):
            for kind, pixels in zip(("images", "masks"), lesion(number), strict=True):
                Image.fromarray(pixels).save(root / part / kind / f"ISIC_{number:07d}.png")
        first += count
    scatter(root)
    return root


def grid(array: np.ndarray, spacing_mm=(0.8, 0.8, 3.0)) -> sitk.Image:
    """A volume (z, y, x) with an origin and a direction as scanners write them."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_mm)
    image.SetOrigin((-150.5, -180.25, 40.0))
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))
    return image


def abdomen(seed: int, labels: int, shape=(4, 20, 24)) -> tuple[np.ndarray, np.ndarray]:
    """HU and labels 0 to `labels`, (z, y, x); every label is in every case."""
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    for number in range(1, labels + 1):
        row, column = divmod(number - 1, 5)
        label[:, 1 + 6 * row : 6 + 6 * row, 1 + 4 * column : 4 + 4 * column] = number
    return (rng.normal(0, 15, shape) + 10 * label).astype(np.int16), label


def btcv(root: Path) -> Path:
    """`averaged-training-images/img` and `label`: 30 volumes with 13 organs."""
    for name in ("img", "label"):
        (root / "averaged-training-images" / name).mkdir(parents=True)
    for number in BTCV_TRAINING + BTCV_TEST:
        image, label = abdomen(int(number), 13)
        folder = root / "averaged-training-images"
        sitk.WriteImage(grid(image), str(folder / "img" / f"img{number}.nii.gz"))
        sitk.WriteImage(grid(label), str(folder / "label" / f"label{number}.nii.gz"))
    scatter(root)
    return root


def transunet(root: Path, labels: int = 8) -> Path:
    """`train_npz`, `test_vol_h5` and `lists_Synapse/lists_Synapse`: six training and two test volumes."""
    lists = root / "lists_Synapse" / "lists_Synapse"
    for folder in (root / "train_npz", root / "test_vol_h5", lists):
        folder.mkdir(parents=True)
    slices = []
    for number in BTCV_TRAINING[:6]:
        image, label = preprocessed_abdomen(int(number), labels)
        for z in range(len(image)):
            slices.append(f"case{number}_slice{z:03d}")
            np.savez(root / "train_npz" / f"{slices[-1]}.npz", image=image[z], label=label[z].astype(np.float32))
    for number in BTCV_TEST[:2]:
        image, label = preprocessed_abdomen(int(number), labels)
        with h5py.File(root / "test_vol_h5" / f"case{number}.npy.h5", "w") as file:
            file["image"], file["label"] = image, label.astype(np.float32)
    (lists / "train.txt").write_text("\n".join(slices) + "\n")
    (lists / "test_vol.txt").write_text("".join(f"case{number}\n" for number in BTCV_TEST[:2]))
    scatter(root)
    return root


def preprocessed_abdomen(seed: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    hu, label = abdomen(seed, labels)
    return ((np.clip(hu, -125, 275) + 125) / 400).astype(np.float32), label


def acdc(root: Path, challenge_patients: int = 2) -> Path:
    """`database/training` and `testing`: 100 patients, and a few of the challenge's 50."""
    for patient in range(1, 101 + challenge_patients):
        name = f"patient{patient:03d}"
        folder = root / "database" / ("training" if patient <= 100 else "testing") / name
        folder.mkdir(parents=True)
        (folder / "Info.cfg").write_text("ED: 1\nES: 9\n")
        (folder / f"{name}_4d.nii.gz").write_bytes(b"not read")
        for frame in (1, 9):
            rng = np.random.default_rng(1000 * patient + frame)
            label = np.zeros((2, 16, 18), np.uint8)
            for value in (1, 2, 3):
                label[:, 3:13, 4 * value : 4 * value + 3] = value
            image = (rng.normal(100, 9, label.shape) + 40 * label).astype(np.int16)
            sitk.WriteImage(grid(image, (1.5, 1.5, 10)), str(folder / f"{name}_frame{frame:02d}.nii.gz"))
            sitk.WriteImage(grid(label, (1.5, 1.5, 10)), str(folder / f"{name}_frame{frame:02d}_gt.nii.gz"))
    scatter(root)
    return root


def convert(*arguments: object) -> int:
    """`nnUNetv2_dsvm dataset …` in this process; the exit status."""
    with threads_for_processes():
        return main(["dataset", *map(str, arguments), "-np", "2"])


def plan_and_preprocess(dataset_id: int) -> dict:
    """nnU-Net's fingerprint, planning and preprocessing for 2d; returns the fingerprint."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    with threads_for_processes():
        fingerprint = api.extract_fingerprint_dataset(dataset_id, QuickFingerprint, num_processes=2, clean=True)
        _, plans_identifier = api.plan_experiment_dataset(dataset_id)
        api.preprocess_dataset(dataset_id, plans_identifier, ["2d"], [2])
    return fingerprint


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, with its content."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
