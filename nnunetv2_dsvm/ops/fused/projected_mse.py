"""The mean of squared errors of several projected maps, whose gradients are computed with it, in few launches.

A pair's maps are read once: the kernel that computes its error writes the gradient too. All that follows is linear in
the upstream's factor, which is multiplied into the small weights instead of the maps. Not for torch.compile, which
joins the single operations itself.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunetv2_dsvm.ops.device import on_its_device
from nnunetv2_dsvm.ops.dispatch import fused_operators, required_backend, saves_for_backward
from nnunetv2_dsvm.ops.fused import resized_mse
from nnunetv2_dsvm.ops.once_differentiable import once_differentiable
from nnunetv2_dsvm.ops.side_branch import fork, later, product, product_later, wait

_ALIGNED = 64  # elements between the starts of tensors that share memory


class ProjectedPair(NamedTuple):
    """A map, the 1x1 convolution that brings it to the channels of another, and that.

    Attributes:
        student: `(B, C, h, w)`.
        weight, bias: `(C', C, 1, 1)` and `(C',)`, fp32.
        teacher: `(B, C', H, W)`; it gets no gradient.
    """

    student: Tensor
    weight: Tensor
    bias: Tensor
    teacher: Tensor


def supports(pairs: Sequence[ProjectedPair]) -> bool:
    """Whether `projected_mse` takes these pairs.

    All is on one GPU, students are of one type, fp32 or bf16, and `resized_mse` takes what they are projected to.
    """
    return (
        bool(pairs)
        and pairs[0].student.dtype in (torch.float32, torch.bfloat16)
        and all(pair.student.dtype == pairs[0].student.dtype for pair in pairs)
        and all(t.device == pairs[0].student.device for pair in pairs for t in pair)
        and all(t.dtype == torch.float32 for pair in pairs for t in (pair.weight, pair.bias))
        and all(_takes(pair) for pair in pairs)
    )


def _takes(pair: ProjectedPair) -> bool:
    batch, _, *size = pair.student.shape
    projected = pair.student[:, :1].expand(batch, len(pair.weight), *size)  # of no memory of its own
    return projected.shape[:2] == pair.teacher.shape[:2] and resized_mse.supports(projected, pair.teacher)


def projected_mse(pairs: Sequence[ProjectedPair]) -> Tensor:
    """The mean over pairs of `resized_mse` of the projected student and the teacher, a scalar in fp32.

    For pairs that `supports` takes, without autocast. Products are of the students' type, the rest is of fp32, the same
    bits in every run. Differentiable once.
    """
    tensors = [t for pair in pairs for t in pair]
    return _ProjectedMSE.apply(saves_for_backward(*tensors), *tensors)


class _ProjectedMSE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, save: bool, *tensors: Tensor) -> Tensor:
        students, weights, biases, teachers = (tensors[i::4] for i in range(4))
        mean, sums, matrices, gradients = _forward(students[0], students, weights, biases, teachers, save)
        if save:
            ctx.shapes = [weight.shape for weight in weights]
            # Autograd goes on at once with the gradient of a weight that is made of parameters.
            ctx.weights_wait = all(weight.is_leaf for weight in weights)
            ctx.save_for_backward(sums, matrices, *students, *gradients)
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        sums, matrices, *maps = ctx.saved_tensors
        students, gradients = (
            [m.permute(0, 2, 3, 1).flatten(0, 2) for m in half]
            for half in (maps[: len(maps) // 2], maps[len(maps) // 2 :])
        )
        # The products of the weights' gradients, without the upstream's factor, and then all with it.
        unscaled, grad_weights = torch.empty_like(matrices), torch.empty_like(matrices, dtype=torch.float32)
        for g, student, out in zip(gradients, students, _pieces(unscaled, ctx.shapes), strict=True):
            product_later(g.t(), student, out.flatten(1))
        later(lambda: torch.mul(unscaled, upstream.view(1), out=grad_weights), grad_weights)
        fork(upstream.device)
        if not ctx.weights_wait:
            wait(upstream.device)
        scaled = _pieces(matrices * upstream, ctx.shapes)
        grads: list[Tensor | None] = [None]
        channels = [shape[0] for shape in ctx.shapes]
        of_pairs = zip(
            maps, gradients, scaled, _pieces(grad_weights, ctx.shapes), (sums * upstream).split(channels), strict=False
        )
        for i, (student, g, weight, grad_weight, grad_bias) in enumerate(of_pairs):
            grad = None
            if ctx.needs_input_grad[1 + 4 * i]:
                batch, _, *size = student.shape
                rows = g.new_empty(len(g), weight.shape[1])
                product(g, weight.flatten(1), rows)
                grad = rows.view(batch, *size, -1).permute(0, 3, 1, 2)
            grads += [grad, grad_weight, grad_bias, None]
        return tuple(grads)


@on_its_device
def _forward(
    first: Tensor, students: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor],
    teachers: Sequence[Tensor], save: bool,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:  # fmt: skip
    """The mean, and of the gradients without the upstream's factor the sums, the weights as one, and those by maps."""
    backend = required_backend(first)
    shapes = [weight.shape for weight in weights]
    matrices = first.new_empty(sum(map(_length, shapes)))
    of_pairs = [piece.flatten(1) for piece in _pieces(matrices, shapes)]
    vectors = [torch.empty_like(bias, dtype=first.dtype) for bias in biases]
    torch._foreach_copy_([*of_pairs, *vectors], [*(weight.flatten(1) for weight in weights), *biases])
    projected = [
        F.linear(student.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
        for student, weight, bias in zip(students, of_pairs, vectors, strict=True)
    ]
    gradients = [torch.empty_like(p, memory_format=torch.channels_last) for p in projected] if save else []
    mean, sums = fused_operators(backend).resized_mse_ahead(projected, teachers, gradients)
    return mean, sums, matrices, gradients


def _length(shape: torch.Size) -> int:
    return math.ceil(shape.numel() / _ALIGNED) * _ALIGNED


def _pieces(together: Tensor, shapes: Sequence[torch.Size]) -> Iterator[Tensor]:
    """The tensors of these shapes that lie one behind the other in `together`."""
    lengths = [_length(shape) for shape in shapes]
    for piece, shape in zip(together.split(lengths), shapes, strict=True):
        yield piece[: shape.numel()].view(shape)
