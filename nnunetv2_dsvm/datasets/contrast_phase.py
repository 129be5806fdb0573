"""CT scans as a contrast agent would have made them: what one scan alone cannot teach a network."""

from collections.abc import Iterable, Iterator, Mapping

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
BLUR_MM = 2.0  # organ borders in the labels are not the exact borders in the image


def with_contrast(image: sitk.Image, classes: sitk.Image, fraction: float) -> sitk.Image:
    """`image` (HU) with `fraction` of `PORTAL_VENOUS_GAIN_HU` added to each organ of `classes`, on the same grid."""
    numbers = sitk.GetArrayViewFromImage(classes)
    gain = np.zeros(numbers.shape, np.float32)
    for number, hu in PORTAL_VENOUS_GAIN_HU.items():
        gain[numbers == number] = fraction * hu
    gain_image = sitk.GetImageFromArray(gain)
    gain_image.CopyInformation(classes)
    blurred = sitk.SmoothingRecursiveGaussian(gain_image, BLUR_MM)
    return sitk.Cast(sitk.Cast(image, sitk.sitkFloat32) + blurred, sitk.sitkInt16)


def contrast_phases(
    image: sitk.Image, classes: sitk.Image, fractions: Iterable[float]
) -> Iterator[tuple[str, sitk.Image]]:
    """(name, image) for each fraction of the gain: `"native"` for 0, else `"contrast050"` for 0.5 and so on."""
    for fraction in fractions:
        if fraction == 0:
            yield "native", image
        else:
            yield f"contrast{round(100 * fraction):03d}", with_contrast(image, classes, fraction)
