"""nnU-Net's own listing of a raw dataset, without hidden and litter files: it takes `._a_0000.nii.gz` for an image."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from nnunetv2_dsvm.listing import is_litter


@contextmanager
def nnunet_passing_over_litter() -> Iterator[None]:
    """Within the block, in this process, nnU-Net finds a raw dataset's cases among the visible files only."""
    from nnunetv2.experiment_planning import verify_dataset_integrity
    from nnunetv2.utilities import utils

    def visible_subfiles(*arguments: Any, **options: Any) -> list[str]:
        return [path for path in original(*arguments, **options) if not is_litter(os.path.basename(path))]

    original = utils.subfiles
    with ExitStack() as patches:
        for module in (utils, verify_dataset_integrity):
            patches.enter_context(mock.patch.object(module, "subfiles", visible_subfiles))
        yield
