"""Gradients of parameters beside the critical path: while a CUDA graph is recorded, a branch of its own in it.

A small batch's kernels do not fill a GPU, and what only a parameter's gradient needs holds up nothing that follows.
Without a recording everything runs where it is written.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# Larger operands fill a GPU by themselves, and would be kept longer. 64 MiB in 16 bit.
_MAX_ELEMENTS = 1 << 25

_open: dict[int | None, "_SideBranch"] = {}  # by the stream that is being recorded


class _SideBranch:
    """Work that waits for `fork`, and what runs; both hold the tensors that they read, whose memory is not used again
    before the recorded stream has waited for it."""

    def __init__(self, main: "torch.cuda.Stream", side: "torch.cuda.Stream") -> None:
        self._main, self._side = main, side
        self._later: list[Callable[[], object]] = []
        self._running: list[Callable[[], object]] = []

    def add(self, work: Callable[[], object]) -> None:
        self._later.append(work)

    def fork(self) -> None:
        self.wait()
        self._running, self._later = self._later, []
        if self._running:
            self._side.wait_stream(self._main)
            with torch.cuda.stream(self._side), torch.no_grad():
                for work in self._running:
                    work()

    def wait(self) -> None:
        if self._running:
            self._main.wait_stream(self._side)
            self._running = []


@contextmanager
def side_branch(main: "torch.cuda.Stream", side: "torch.cuda.Stream") -> Iterator[None]:
    """Within it, `later` puts off what is called on `main`, which is being recorded; at the end all of it has run."""
    branch = _open[main.cuda_stream] = _SideBranch(main, side)
    try:
        yield
        branch.fork()
        branch.wait()
    finally:
        del _open[main.cuda_stream]


def stream_of(device: torch.device) -> int | None:
    """The stream on which the caller launches, by its address; None where there are none."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None


def _branch(device: torch.device) -> _SideBranch | None:
    return _open.get(stream_of(device)) if _open else None


def later(work: Callable[[], object], out: Tensor, elements: int = 0) -> None:
    """Runs `work`, in the order of the calls: at once, or on a side branch after the next `fork`.

    Args:
        work: writes into tensors that are there already. What it reads must not be written afterwards.
        out: one of those. None may be read but by later work, or after `wait`.
        elements: that it reads and that nobody else would keep.
    """
    branch = _branch(out.device)
    if branch is None or elements > _MAX_ELEMENTS:
        work()
    else:
        branch.add(work)


def fork(device: torch.device) -> None:
    """Starts what was put off, once what was started before is done."""
    if branch := _branch(device):
        branch.fork()


def wait(device: torch.device) -> None:
    """Until what was put off is done."""
    if branch := _branch(device):
        branch.fork()
        branch.wait()


def product_later(a: Tensor, b: Tensor, out: Tensor) -> None:
    """`product`, as `later`."""
    later(lambda: product(a, b, out), out, a.numel() + b.numel())


def product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """`out` = a @ b, of two matrices or of batches of them, in the type of `out`."""
    multiply = torch.mm if a.ndim == 2 else torch.bmm
    if out.dtype == a.dtype:
        multiply(a, b, out=out)
    else:
        out.copy_(multiply(a, b))
