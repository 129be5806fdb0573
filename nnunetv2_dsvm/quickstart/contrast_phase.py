"""CT scans as a contrast agent would have made them: what one scan alone cannot teach a network."""

from collections.abc import Iterator, Mapping

import numpy as np
import SimpleITK as sitk

# Typical gain in the portal venous phase over a scan without contrast agent, in HU, by TotalSegmentator's class number
# (task "total", version 2): round textbook values, not fitted to any scan here.
PORTAL_VENOUS_GAIN_HU: Mapping[int, float] = {
    1: 65,  # spleen
    2: 130, 3: 130,  # kidneys
    5: 55,  # liver
    6: 15,  # stomach: its wall, not what is in it
    7: 55,  # pancreas
    8: 40, 9: 40,  # adrenal glands
    18: 30, 19: 30, 20: 25,  # bowel
    51: 110, 52: 115, 63: 105, 64: 125,  # heart, aorta, inferior vena cava, portal and splenic veins
    65: 110, 66: 110, 67: 90, 68: 90,  # iliac vessels
    86: 10, 87: 10,  # muscles of the back
}  # fmt: skip
# Trabecular bone differs by this much between people (it thins with age), and dense bone looks brighter with a contrast
# agent: vertebrae, ribs, sternum, costal cartilages.
BONE_CLASSES = (*range(25, 51), *range(92, 118))
BONE_DIFFERENCE_HU = (-60, 120)
BLUR_MM = 2.0  # organ borders in the labels are not the exact borders in the image


def with_gain(image: sitk.Image, classes: sitk.Image, gain_hu: Mapping[int, float]) -> sitk.Image:
    """`image` (HU) with `gain_hu` added to the organs of `classes` (same grid) by class number; the rest stays."""
    table = np.zeros(256, np.float32)
    for number, hu in gain_hu.items():
        table[number] = hu
    gain = sitk.GetImageFromArray(table[sitk.GetArrayViewFromImage(classes)])
    gain.CopyInformation(classes)
    blurred = sitk.SmoothingRecursiveGaussian(gain, BLUR_MM)
    return sitk.Cast(sitk.Cast(image, sitk.sitkFloat32) + blurred, sitk.sitkInt16)


def contrast_phases(image: sitk.Image, classes: sitk.Image, count: int) -> Iterator[tuple[str, sitk.Image]]:
    """(name, image): the scan as it is, `"native"`, then `count` with a contrast agent, `"contrast1"` and so on.

    Every organ draws its own share of the gain, between 0.3 and 1.3, and all bones one difference in density, so that a
    network cannot tell organs apart by brightness alone. The draws are the same in every run.
    """
    yield "native", image
    for number in range(1, count + 1):
        random = np.random.default_rng(number)
        gain = {organ: hu * random.uniform(0.3, 1.3) for organ, hu in PORTAL_VENOUS_GAIN_HU.items()}
        bone = random.uniform(*BONE_DIFFERENCE_HU)
        yield f"contrast{number}", with_gain(image, classes, gain | dict.fromkeys(BONE_CLASSES, bone))
