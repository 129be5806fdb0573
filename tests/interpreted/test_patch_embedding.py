"""The patch embedding as a product, as it is where the kernels run, against its convolution in fp64."""

import copy

import pytest
import torch
from helpers.scan_inputs import relative_error
from torch import nn

from nnunetv2_dsvm.architecture.blocks.resampling import PatchEmbedding


@pytest.mark.parametrize(("sizes", "step"), [((8, 12), (4, 4)), ((2, 6, 8), (1, 2, 4))])
def test_product_of_patches(sizes, step):
    """Channels, and axes of different steps, in the order of the convolution's weights."""
    embedding = PatchEmbedding(3, 8, step)
    exact = copy.deepcopy(embedding).double()
    x = torch.randn(2, 3, *sizes).requires_grad_()
    wide = x.detach().double().requires_grad_()
    y = embedding(x)
    norm = exact.norm
    convolved = exact.projection(wide).movedim(1, -1)
    expected = nn.functional.layer_norm(convolved, (8,), norm.weight, norm.bias, norm.eps)
    assert y.shape == expected.shape
    assert relative_error(y, expected) <= 1e-5
    grad = torch.randn(y.shape)
    got = torch.autograd.grad(y, [x, *embedding.parameters()], grad)
    right = torch.autograd.grad(expected, [wide, *exact.parameters()], grad.double())
    for of_ours, of_exact in zip(got, right, strict=True):
        assert relative_error(of_ours, of_exact) <= 1e-5
