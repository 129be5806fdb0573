"""torch.jit.trace, which records what the network does with one image and would give wrong logits for other sizes."""

import warnings

from torch import Tensor, jit


def at_this_size_only(x: Tensor) -> Tensor:
    """x `(B, C, H, W)` itself; a traced program then stops at images of another height or width. Says so once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jit.TracerWarning)  # that the sizes become constants: it is what they are for
        height, width = (int(size) for size in x.shape[2:])
    warnings.warn(
        f"torch.jit.trace records the network for images of {height}x{width} only, and what it gives refuses others; "
        "for any size export it with `nnUNetv2_dsvm export`",
        stacklevel=3,
    )
    return x.split([height], dim=2)[0].split([width], dim=3)[0]
