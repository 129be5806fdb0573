"""torch.jit.trace, which records what the network does with one image and would give wrong logits for other sizes."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from torch import Tensor, jit


@contextmanager
def at_this_size_only(x: Tensor) -> Iterator[Tensor]:
    """x `(B, channels, *sizes)` itself; a traced program then stops at images of other sizes.

    Says so once, instead of torch's warning of each size that becomes a constant: it is what they are for.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jit.TracerWarning)
        sizes = tuple(int(size) for size in x.shape[2:])
        _say(sizes)
        for axis, size in enumerate(sizes, 2):
            x = x.split([size], dim=axis)[0]
        yield x


@lru_cache  # torch runs the network twice, and Python's own register is emptied by `catch_warnings`
def _say(sizes: tuple[int, ...]) -> None:
    images = "x".join(map(str, sizes))
    warnings.warn(
        f"torch.jit.trace records the network for images of {images} only, and what it gives refuses others; "
        "for any size export it with `nnUNetv2_dsvm export`",
        stacklevel=5,
    )
