"""What autograd's graph of some outputs reaches."""

from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.autograd.graph import Node

from nnunetv2_dsvm.cuda_graphs.converted_weights import is_converted

# The operators that put the gradients of weights off, and which of their tensors are no weights.
_ACTIVATIONS = {"layer_norm": (0, 3), "ss2d_block": (0,), "ss2d_core": (0,), "scan_weights": ()}


def _nodes(outputs: Sequence[Tensor], without: Node | None = None) -> Iterator[Node]:
    """Those of autograd's graph of these outputs, each once, but for one and what only that leads to."""
    nodes = [t.grad_fn for t in outputs]
    seen: set[Node] = set() if without is None else {without}
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


def leaves_reached(outputs: Sequence[Tensor], without: Node | None = None) -> set[Tensor]:
    """The tensors into which autograd would accumulate gradients of these outputs, if it stopped at a node."""
    return {leaf for node in _nodes(outputs, without) if (leaf := _leaf(node)) is not None}


def weights_are_shared(outputs: Sequence[Tensor], inputs: Sequence[Tensor] = ()) -> bool:
    """Whether the gradient of a parameter, or of one that was converted with others, has more than one part.

    Args:
        outputs: of a function.
        inputs: its leaves that are no parameters; their gradients are never put off.
    """
    apart = {id(t) for t in inputs}
    to_weights = [
        (earlier, output)
        for node in _nodes(outputs)
        for earlier, output in node.next_functions
        if earlier is not None
        and (((leaf := _leaf(earlier)) is not None and id(leaf) not in apart) or is_converted(earlier))
    ]
    return len(to_weights) > len(set(to_weights))


def weights_are_computed(outputs: Sequence[Tensor]) -> bool:
    """Whether an operator that puts gradients off has a weight that is made of parameters by something else.

    A parametrized weight, say, whose gradient autograd goes on with at once.
    """
    return any(
        position not in _ACTIVATIONS[operator] and earlier is not None and not _waits_or_ends(earlier)
        for node in _nodes(outputs)
        if (operator := _operator(node)) is not None
        for position, (earlier, _) in enumerate(node.next_functions)
    )


def _waits_or_ends(node: Node) -> bool:
    return _leaf(node) is not None or is_converted(node) or _operator(node) == "scan_weights"


def _operator(node: Node) -> str | None:
    """Which of ours that put gradients off a node is of."""
    name = type(node).__name__
    return next((operator for operator in _ACTIVATIONS if f"nnunetv2_dsvm_{operator}_default" in name), None)
