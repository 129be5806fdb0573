"""How an image is shown: which slice, which intensities are black and white, which way up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SOFT_TISSUE_WINDOW_HU = (-160.0, 240.0)
SMALLEST_CT_RANGE_HU = 100.0  # images with fewer grey levels are no longer in HU
PERCENTILES = (0.5, 99.5)
ENOUGH_VOXELS = 10_000_000  # for a percentile


@dataclass(frozen=True)
class Displayed:
    """A slice as RGB in 0 … 1, `(y, x, 3)`, and what its greys or colours are."""

    rgb: np.ndarray
    description: str


def displayed(image: np.ndarray, z: int, channel_names: Sequence[str]) -> Displayed:
    """Turn a slice of what nnU-Net reads into something to look at.

    CT is shown in a soft tissue window, colour photographs in their colours, anything else between two percentiles of
    the whole first channel.

    Args:
        image: `(channels, z, y, x)`.
        z: the slice.
        channel_names: of `dataset.json`, one per channel.
    """
    if len(image) >= 3 and _are_colours(channel_names[:3]):  # a fourth channel may be alpha
        rgb = np.nan_to_num(np.moveaxis(image[:3, z], 0, -1).astype(np.float32))
        highest = np.nanmax(image[:3])
        full = 1 if highest <= 1 else 255 if highest <= 255 else 65535
        more = f", the first 3 of {len(image)} channels" if len(image) > 3 else ""
        return Displayed(np.clip(rgb / full, 0, 1), f"in colour{more}")
    name = channel_names[0] if channel_names else "image"
    grey = image[0]
    some = grey.ravel()[:: max(1, grey.size // ENOUGH_VOXELS)]
    finite = some[np.isfinite(some)]
    if name.lower() == "ct" and finite.size and np.ptp(finite) >= SMALLEST_CT_RANGE_HU:
        low, high = SOFT_TISSUE_WINDOW_HU
        description = f"CT, window {low:.0f} to {high:.0f} HU".replace("-", "−")
    else:
        low, high = np.percentile(finite, PERCENTILES) if finite.size else (0.0, 1.0)
        description = f"{name}, percentiles {PERCENTILES[0]} to {PERCENTILES[1]}"
    if image.shape[0] > 1:
        description += f", the first of {image.shape[0]} channels"
    scaled = np.clip((np.nan_to_num(grey[z]).astype(np.float32) - low) / max(float(high - low), 1e-6), 0, 1)
    return Displayed(np.repeat(scaled[..., None], 3, axis=-1), description)


def slice_to_show(truth: np.ndarray, predictions: Sequence[np.ndarray]) -> int:
    """The slice with the most foreground in the ground truth; if it has none, in the predictions; else the middle one.

    Args:
        truth: mask `(z, y, x)`.
        predictions: masks of the same shape.
    """
    for masks in ([truth], predictions):
        if masks:
            counts = sum(mask.sum(axis=(1, 2), dtype=np.int64) for mask in masks)
            if counts.any():
                return int(counts.argmax())
    return len(truth) // 2


@dataclass(frozen=True)
class Plane:
    """How a volume `(z, y, x)` is cut and turned.

    Attributes:
        axis: that the slices are counted along.
        name: "axial", "coronal" or "sagittal"; "" where the file says nothing of directions, or the cuts are oblique.
        steps: through rows and columns of a slice, as it is shown.
    """

    axis: int
    name: str
    steps: tuple[slice, slice]


def planes_of(properties: dict[str, Any]) -> tuple[Plane, Plane, Plane]:
    """Axial, coronal and sagittal: the front or the head of a patient up, their right or their front on the left.

    Only volumes of axial slices are turned; where the file says nothing of directions, they are shown as stored.

    Args:
        properties: what nnU-Net's readers return beside an image.
    """
    direction, forward = _direction(properties), slice(None)
    if direction is None:
        return Plane(0, "", (forward, forward)), Plane(1, "", (forward, forward)), Plane(2, "", (forward, forward))
    backward = slice(None, None, -1)
    towards_left, towards_back, towards_head = (direction[i, i] > 0 for i in range(3))
    z, y, x = (forward if up else backward for up in (not towards_head, towards_back, towards_left))
    return Plane(0, "axial", (y, x)), Plane(1, "coronal", (z, x)), Plane(2, "sagittal", (z, y))


def _direction(properties: dict[str, Any]) -> np.ndarray | None:
    """The axes' directions in LPS, one a column (x, y, z); None where they are unknown or the slices are not axial."""
    if "direction" in properties.get("sitk_stuff", {}):
        cosines = properties["sitk_stuff"]["direction"]
        direction = np.reshape(cosines, (round(len(cosines) ** 0.5), -1))
    elif "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        affine = stuff.get("reoriented_affine", stuff.get("original_affine"))
        direction = np.diag([-1, -1, 1]) @ np.asarray(affine)[:3, :3]  # from RAS to LPS
        direction = direction / np.maximum(np.linalg.norm(direction, axis=0), 1e-9)
    else:
        return None
    return direction if direction.shape == (3, 3) and np.abs(np.diag(direction)).min() >= 0.7 else None


def _are_colours(names: Sequence[str]) -> bool:
    lower = [name.lower() for name in names]
    return lower in (["r", "g", "b"], ["red", "green", "blue"]) or all(name.startswith("rgb") for name in lower)
