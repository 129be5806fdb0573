"""A generated abdomen: ellipsoids with the HU of organs, a new patient for every seed. Needs no network."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_dsvm.datasets.raw_cases import Case, label_on_grid, to_lps, write_dataset

BACKGROUND_HU, FAT_HU, NOISE_HU = -1000, -90, 15
BODY_RADII = (0.88, 0.72, 2.0)
# name: centre and radii as fractions of half the field of view (x left, y posterior, z superior), HU
ORGANS = {
    "liver": ((-0.38, -0.12, 0.1), (0.36, 0.38, 0.9), 70),
    "spleen": ((0.52, 0.22, 0.2), (0.16, 0.24, 0.7), 110),
    "aorta": ((0.08, 0.22, 0.0), (0.07, 0.07, 2.0), 190),
    "vertebrae": ((0.0, 0.45, 0.0), (0.15, 0.14, 2.0), 320),
}


def phantom_patient(
    seed: int, *, size: tuple[int, int, int] = (64, 56, 12), spacing_mm: tuple[float, float, float] = (5.0, 5.0, 6.0)
) -> tuple[sitk.Image, sitk.Image]:
    """A CT-like image (HU) and its labels 1 … len(ORGANS), both `size` (x, y, z) in LPS.

    Place, size, HU of each organ and the noise change with `seed`, as patients differ.
    """
    rng = np.random.default_rng(seed)
    # Coordinates of half the field of view, indexed z, y, x as SimpleITK's arrays are.
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in reversed(size)), indexing="ij")

    def ellipsoid(centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
        return sum(((axis - c) / r) ** 2 for axis, c, r in zip((x, y, z), centre, radii, strict=True)) < 1

    habitus = rng.uniform(0.92, 1.05, 3)
    image = np.full(x.shape, BACKGROUND_HU, np.float32)
    label = np.zeros(x.shape, np.uint8)
    image[ellipsoid(np.zeros(3), np.multiply(BODY_RADII, habitus))] = FAT_HU
    for value, (centre, radii, hu) in enumerate(ORGANS.values(), start=1):
        organ = ellipsoid(
            np.multiply(centre, habitus) + rng.normal(0, 0.03, 3), np.multiply(radii, rng.uniform(0.85, 1.15, 3))
        )
        image[organ] = hu + rng.normal(0, 10)
        label[organ] = value
    image += rng.normal(0, NOISE_HU, image.shape)
    images = sitk.GetImageFromArray(image), sitk.GetImageFromArray(label)
    for generated in images:
        generated.SetSpacing(spacing_mm)
    return images


def write_phantom(folder: Path, *, training_patients: int = 5) -> None:
    """Write an nnU-Net dataset of phantoms to `folder`, `…/DatasetXXX_Name`.

    The test patient has finer pixels, and its label file stores the rows the other way round, as scanners' files do.
    """
    training = []
    for seed in range(training_patients):
        image, label = phantom_patient(seed)
        training.append(Case(f"phantom{seed}", image, label))
    image, label = phantom_patient(training_patients, size=(96, 80, 8), spacing_mm=(3.4, 3.5, 8.0))
    stored_label = sitk.Flip(label, (False, True, False))
    image = to_lps(image)
    write_dataset(
        folder,
        training=training,
        test=[Case("phantom_test", image, label_on_grid(stored_label, image))],
        label_names=ORGANS,
        description="Generated phantoms with organ-like ellipsoids",
        reference="nnunetv2_dsvm.quickstart.phantom",
    )
