"""The segmentation head as an aligned product, as it is where the kernels run, against its convolution in fp64."""

import copy

import pytest
import torch
from helpers.scan_inputs import relative_error
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nnunetv2_dsvm.architecture.blocks.head import Head2d, head

AUTOCAST = {torch.float16: 2e-3, torch.bfloat16: 1e-2}  # and the error that a type may have


class Products(TorchDispatchMode):
    """The numbers of columns of the matrices that were multiplied, and whether something was convolved."""

    def __init__(self) -> None:
        super().__init__()
        self.columns: list[int] = []
        self.convolved = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.columns += [t.shape[1] for t in args[-2:]]
        self.convolved |= func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))


def _tokens(*sizes: int, channels: int = 24) -> Tensor:
    """`(2, channels, *sizes)`, channels last in memory."""
    return torch.randn(2, *sizes, channels).movedim(-1, 1)


@pytest.mark.parametrize("dtype", AUTOCAST, ids=str)
@pytest.mark.parametrize(("classes", "sizes"), [(2, (6, 8)), (9, (8, 8)), (4, (2, 3, 4))], ids=str)
def test_logits_and_gradients(classes, sizes, dtype):
    layer = head(len(sizes))(24, classes, kernel_size=1)
    exact = copy.deepcopy(layer).double()
    x = _tokens(*sizes).to(dtype).requires_grad_()
    wide = x.detach().double().requires_grad_()
    grad = torch.randn(2, classes, *sizes, dtype=dtype)  # classes first in memory
    grad[..., 0] += 64  # with its neighbour in the row it nearly cancels, in the gradient of the bias
    grad[..., 1] -= 64
    with Products() as products:
        with torch.autocast("cpu", dtype):
            y = layer(x)
        got = torch.autograd.grad(y, [x, *layer.parameters()], grad)
    assert not products.convolved and len(products.columns) >= 6
    assert all(n % 8 == 0 for n in products.columns), "columns of less than 16 bytes"
    expected = exact(wide)
    right = torch.autograd.grad(expected, [wide, *exact.parameters()], grad.double())
    assert y.shape == expected.shape and y.dtype == dtype and y.movedim(1, -1).is_contiguous()
    assert [g.dtype for g in got] == [dtype, torch.float32, torch.float32]
    for ours, of_exact in zip((y, *got), (expected, *right), strict=True):
        assert relative_error(ours, of_exact) <= AUTOCAST[dtype]


def test_a_penalty_on_the_gradients_is_refused():
    """torch's head is differentiable twice: what the product leaves out must not be left out without a word."""
    layer, x = Head2d(8, 2, kernel_size=1), _tokens(2, 2, channels=8).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    (gradient,) = torch.autograd.grad(y.float().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="_ByRowsBackward.*differentiated again"):
        gradient.square().sum().backward()


@pytest.mark.parametrize(
    ("classes", "sizes", "dtype"),
    [(8, (6, 8), torch.bfloat16), (2, (3, 3), torch.bfloat16), (2, (6, 8), torch.float32)], ids=str,
)  # fmt: skip
def test_the_convolution_where_it_is_as_good_or_pixels_are_left_over(classes, sizes, dtype):
    layer, x = Head2d(24, classes, kernel_size=1), _tokens(*sizes)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32), Products() as products:
        y = layer(x)
        assert products.convolved
        assert torch.equal(y, torch.nn.functional.conv2d(x, layer.weight, layer.bias))
