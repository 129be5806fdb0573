"""nnU-Net's own listings of a raw and of a preprocessed dataset, without hidden and litter files.

It takes `._a_0000.nii.gz` for an image and `._a.b2nd` for a case, and stops at a `.DS_Store` among preprocessed cases.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from nnunetv2_dsvm.files.listing import is_litter


@contextmanager
def nnunet_passing_over_litter() -> Iterator[None]:
    """Within the block, in this process, nnU-Net finds a raw dataset's cases among the visible files only."""
    from nnunetv2.experiment_planning import verify_dataset_integrity
    from nnunetv2.utilities import utils

    with ExitStack() as patches:
        for module in (utils, verify_dataset_integrity):
            patches.enter_context(mock.patch.object(module, "subfiles", _visible(module.subfiles)))
        yield


@contextmanager
def cases_passing_over_litter() -> Iterator[None]:
    """The same of a preprocessed dataset's cases."""
    from nnunetv2.training.dataloading import nnunet_dataset as of_cases

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(of_cases, "subfiles", _visible(of_cases.subfiles)))
        for kind in of_cases.file_ending_dataset_mapping.values():
            listed = staticmethod(_visible(kind.get_identifiers, ending="."))
            patches.enter_context(mock.patch.object(kind, "get_identifiers", listed))
        yield


def _visible(listed: Callable[..., list[str]], ending: str = "") -> Callable[..., list[str]]:
    """The listing without litter; `ending`: what it has taken off the files' names, or their beginning."""

    def visible(*arguments: Any, **options: Any) -> list[str]:
        return [name for name in listed(*arguments, **options) if not is_litter(os.path.basename(name) + ending)]

    return visible
