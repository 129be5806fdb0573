"""A backward in two parts: what the first leaves can be used while the second runs.

The second is that of the modules that the image goes through first. They are few parameters at high resolution: most
gradients of a U-shaped network are there while a third of its backward is still to come.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nnunetv2_dsvm.cuda_graphs.autograd_graph import leaves_reached
from nnunetv2_dsvm.cuda_graphs.converted_weights import converted_weights


class Cut:
    """Between the two: the output of the last of some modules, when `within` is left.

    Args:
        names: of modules, in the order in which the image goes through them; without any there is no cut.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self.tensor: Tensor | None = None

    @contextmanager
    def within(self, twin: nn.Module, device_type: str) -> Iterator[None]:
        """Within it `twin`, used by nobody else, is called; as `converted_weights`, apart for those modules."""
        modules = dict(twin.named_modules())
        first = nn.ModuleList(modules[name] for name in self._names if name in modules)
        handles = [module.register_forward_hook(self._keep) for module in first[-1:]]
        try:
            with converted_weights(first, device_type), converted_weights(twin, device_type):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, module: nn.Module, arguments: tuple, output: Tensor) -> None:
        self.tensor = output


def gradients_in_two_parts(
    outputs: Sequence[Tensor],
    sources: Sequence[Tensor],
    upstream: Sequence[Tensor],
    cut: Tensor | None,
    between: Callable[[list[int], Sequence[Tensor | None]], Sequence[Tensor | None]],
) -> list[Tensor | None]:
    """`torch.autograd.grad` of some outputs.

    Args:
        outputs: of a function.
        sources: leaves of it.
        upstream: gradients of the outputs.
        cut: what the gradients of some sources come through. None, or where those have other ways too: in one part.
        between: called between the parts with positions of the sources of the first and their gradients, which it may
            replace.
    """
    last = set() if cut is None or cut.grad_fn is None else leaves_reached([cut])
    if cut is None or not last or last & leaves_reached(outputs, without=cut.grad_fn):
        return list(torch.autograd.grad(outputs, sources, upstream, allow_unused=True))
    early = [i for i, source in enumerate(sources) if source not in last]
    late = [i for i, source in enumerate(sources) if source in last]
    *first, of_cut = torch.autograd.grad(outputs, [*(sources[i] for i in early), cut], upstream, allow_unused=True)
    found = dict(zip(early, between(early, first), strict=True))
    second = torch.autograd.grad([cut], [sources[i] for i in late], [of_cut], allow_unused=True)
    found |= dict(zip(late, second, strict=True))
    return [found[i] for i in range(len(sources))]
