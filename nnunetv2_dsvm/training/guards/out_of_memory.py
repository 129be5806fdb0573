"""When the GPU's memory does not suffice: which patch and batch size were too much, and what to lower."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from nnunetv2_dsvm.errors import Refusal
from nnunetv2_dsvm.files.text import by, first_line


class OutOfGpuMemory(Refusal, torch.OutOfMemoryError):
    """Of patch and batch; the message says what to lower."""


@contextmanager
def explained(what: str, configuration: str, plans: str, patch_size: Sequence[int], batch_size: int) -> Iterator[None]:
    """Within it an out-of-memory error of the GPU says what was running and what to lower.

    Args:
        what: what was running, as in "during ...".
        configuration: the name of the configuration in the plans.
        plans: the name of the plans.
        patch_size: along each axis, in pixels or voxels.
        batch_size: images that this GPU had at once.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in str(error):  # Apple: a plain one
            raise
        raise OutOfGpuMemory(
            f"Out of GPU memory during {what} with a patch of {by(patch_size)} "
            f"{'pixels' if len(patch_size) == 2 else 'voxels'} and a batch of {batch_size}. In a copy of the plans "
            f"(nnUNetv2_dsvm copy-plans -d DATASET -p {plans} -o NEW_NAME), lower "
            f'"batch_size" of the configuration {configuration}, or, at a batch of 1, "patch_size"; a smaller network '
            'or "gradient_checkpointing": true in its arch_kwargs needs less too. Close other programs on this GPU '
            f"first (nvidia-smi lists them). torch says: {first_line(error)}"
        ) from error
