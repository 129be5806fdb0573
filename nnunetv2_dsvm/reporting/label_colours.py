"""The colours of labels in pictures: those that stand out against the image."""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from skimage.color import deltaE_ciede2000, rgb2lab, rgb2xyz, xyz2lab

# Okabe and Ito's, told apart by the colour-blind too; without the black, which is not seen on images.
LABEL_COLOURS = ("#D55E00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#E69F00", "#0072B2")

FILL = 0.28  # opacity at which a colour has to be seen
SEEN = 10.0  # CIEDE2000 between pixels and the same pixels filled; on every grey, every colour reaches it
WORST = 10  # percentile over the pixels: a colour must stand out nearly everywhere
BORDER = 3  # pixels around a label that are looked at
USUAL, UNSEEN = 1e3, 1e5  # what a usual colour, and a colour that is not seen at all, are worth beside a contrast
SAMPLE = 500  # pixels of each part of a label in each picture

# Protanopia and deuteranopia in linear sRGB (Machado, Oliveira and Fernandes 2009, severity 1), and normal vision.
_VISIONS = (
    np.eye(3),
    np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
)

Picture = tuple[np.ndarray, Sequence[np.ndarray]]  # RGB in 0 … 1, (y, x, 3), and each label's mask, (y, x)


def choose_label_colours(pictures: Iterable[Picture], number_of_labels: int) -> list[str]:
    """A colour for each label, the same in all pictures, that stands out against the pixels under and around it.

    A label keeps its usual colour where that is seen. Otherwise it gets the one of the remaining colours that differs
    most from the image, for the colour-blind too. Labels share a colour only where there are more labels than colours.

    Args:
        pictures: image and masks of the labels, one for each segmentation that is drawn.
        number_of_labels: the masks of a picture.

    Returns:
        Hexadecimal codes, one per label.
    """
    n = len(LABEL_COLOURS)
    pixels: list[list[np.ndarray]] = [[] for _ in range(min(number_of_labels, n))]
    for rgb, masks in pictures:
        for i, mask in enumerate(masks):
            pixels[i % n] += _under_and_around(rgb, mask)
    # First as many labels as possible are seen, then they keep their usual colours, then the contrast counts.
    scores = USUAL * np.eye(len(pixels), n)
    for i, found in enumerate(pixels):
        if found:
            of_colours = contrast(np.concatenate(found))
            scores[i] += UNSEEN * np.minimum(of_colours[0] / SEEN, 1) + of_colours.min(axis=0)
    _, chosen = linear_sum_assignment(scores, maximize=True)
    return [LABEL_COLOURS[chosen[i % n]] for i in range(number_of_labels)]


def contrast(pixels: np.ndarray) -> np.ndarray:
    """How much a fill with each colour changes nearly all pixels, as normal vision, protanopia and deuteranopia see it.

    Args:
        pixels: RGB in 0 … 1, `(pixels, 3)`.

    Returns:
        CIEDE2000, `(3, colours)`.
    """
    result = np.empty((len(_VISIONS), len(LABEL_COLOURS)))
    for j, code in enumerate(LABEL_COLOURS):
        filled = (1 - FILL) * pixels + FILL * rgb_of(code)
        for i, vision in enumerate(_VISIONS):
            result[i, j] = np.percentile(deltaE_ciede2000(_lab(pixels, vision), _lab(filled, vision)), WORST)
    return result


def rgb_of(code: str) -> np.ndarray:
    """`#RRGGBB` as RGB in 0 … 1."""
    return np.array([int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def _under_and_around(rgb: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """Some pixels of a label's inside and as many of the strip along its outline; none where it is not there."""
    if not mask.any():
        return []
    outline = ndimage.binary_dilation(mask, iterations=BORDER) & ~ndimage.binary_erosion(mask, iterations=BORDER)
    parts = [rgb[mask], rgb[outline]]
    return [part[np.linspace(0, len(part) - 1, SAMPLE).astype(int)] for part in parts]


def _lab(rgb: np.ndarray, vision: np.ndarray) -> np.ndarray:
    """CIELAB of pixels `(n, 3)` as they are seen."""
    if vision is _VISIONS[0]:
        return rgb2lab(rgb)
    to_xyz = rgb2xyz(np.eye(3))  # rows: the primaries
    linear = rgb2xyz(rgb) @ np.linalg.inv(to_xyz)
    return xyz2lab(np.clip(linear @ vision.T, 0, 1) @ to_xyz)
