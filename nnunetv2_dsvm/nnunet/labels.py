"""The labels and regions of a dataset, as its dataset.json names them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnunetv2_dsvm.errors import UserError


@dataclass(frozen=True)
class Labels:
    """What is evaluated.

    Args:
        foreground: label or region (all its labels) by name, without the background.
        ignore: the label of pixels that count for nothing; None where there is none.
        known: every value that a reference may hold, ascending.
    """

    foreground: Mapping[str, tuple[int, ...]]
    ignore: int | None
    known: tuple[int, ...]

    def as_in_json(self) -> dict[str, int | list[int]]:
        """An integer for a label, a list for a region of several."""
        return {name: list(values) if len(values) > 1 else values[0] for name, values in self.foreground.items()}


def read_labels(dataset_json: Mapping[str, Any]) -> Labels:
    """The labels of a dataset.json: as nnU-Net, every entry but the background and `ignore` is evaluated.

    Raises:
        UserError: there is no foreground, or a value is not an integer.
    """
    try:
        entries = {
            name: tuple(int(v) for v in (value if isinstance(value, (list, tuple)) else [value]))
            for name, value in dataset_json["labels"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f'dataset.json has no usable "labels", expected names with integers: {error!r}') from error
    ignore = entries.pop("ignore", (None,))[0]
    foreground = {name: values for name, values in entries.items() if set(values) != {0}}
    if not foreground:
        raise UserError(f"dataset.json names no label besides the background: {dataset_json['labels']}")
    if "mean" in foreground:
        raise UserError('dataset.json names a label "mean", the name of the mean over the labels; rename it')
    known = {0}.union(*entries.values()) | ({ignore} if ignore is not None else set())
    return Labels(foreground, ignore, tuple(sorted(known)))
