"""What autograd's graph of some outputs reaches."""

from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.autograd.graph import Node

from nnunetv2_dsvm.cuda_graphs.converted_weights import is_converted


def _nodes(outputs: Sequence[Tensor]) -> Iterator[Node]:
    """Those of autograd's graph of these outputs, each once."""
    nodes = [t.grad_fn for t in outputs]
    seen: set[Node] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        nodes += [earlier for earlier, _ in node.next_functions]


def _leaf(node: Node) -> Tensor | None:
    """The tensor into which a node would accumulate its gradient."""
    return node.variable if type(node).__name__ == "AccumulateGrad" else None  # type: ignore[attr-defined]


def leaves_reached(outputs: Sequence[Tensor]) -> set[Tensor]:
    """The tensors into which autograd would accumulate gradients of these outputs."""
    return {leaf for node in _nodes(outputs) if (leaf := _leaf(node)) is not None}


def weights_are_shared(outputs: Sequence[Tensor]) -> bool:
    """Whether the gradient of a parameter, or of one that was converted with others, has more than one part."""
    to_weights = [
        (earlier, output)
        for node in _nodes(outputs)
        for earlier, output in node.next_functions
        if earlier is not None and (_leaf(earlier) is not None or is_converted(earlier))
    ]
    return len(to_weights) > len(set(to_weights))
