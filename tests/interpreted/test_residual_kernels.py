"""A residual branch with a factor for each image, added by a Triton kernel: against torch in fp64."""

import pytest
import torch
from helpers.scan_inputs import relative_error

from nnunetv2_dsvm.architecture.blocks.vss_block import DropPath, added
from nnunetv2_dsvm.ops.fused.residual import scaled_sum
from nnunetv2_dsvm.ops.testing import TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_sum(dtype):
    """Of images of more elements than a program has, strided; the factor of one is 0."""
    x, branch, grad = (torch.randn(2, 43, 49, 3).to(dtype).movedim(1, 2) for _ in range(3))
    inputs = [x.requires_grad_(), branch.requires_grad_()]
    scale = torch.tensor([1.25, 0.0], dtype=dtype).view(2, 1, 1, 1)
    y = scaled_sum(*inputs, scale)
    got = [y, *torch.autograd.grad(y, inputs, grad)]
    wide, factor = grad.double(), scale.double()
    expected = [x.double() + factor * branch.double(), wide, factor * wide]
    for name, ours, right in zip(("y", "x", "branch"), got, expected, strict=True):
        assert ours.dtype == dtype and ours.shape == right.shape, name
        assert relative_error(ours, right) <= TOLERANCE[dtype], name
    operators, utils = torch.ops.nnunetv2_dsvm, ("test_schema", "test_faketensor")
    call = x.detach()[:, :1].contiguous(), branch.detach()[:, :1].contiguous(), scale
    torch.library.opcheck(operators.scaled_sum.default, (*call, "triton"), test_utils=utils)
    torch.library.opcheck(operators.scaled_sum_backward.default, (*call[1:], "triton"), test_utils=utils)


def test_stochastic_depth():
    """The same draws as where the branch is a tensor of its own; other shapes are torch's to add."""
    x, branch, drop_path = torch.randn(6, 2, 3), torch.randn(6, 2, 3), DropPath(0.5)
    torch.manual_seed(0)
    dropped = drop_path(branch)
    for stream in (x, x[:1]):
        torch.manual_seed(0)
        assert torch.equal(added(stream, branch, drop_path), stream + dropped)
    assert added(x[:0], branch[:0], drop_path).shape == (0, 2, 3)
    for scale in (torch.tensor(2.0).expand(6, 1, 1), torch.full((1, 1, 1), 2.0)):  # of one number in memory
        assert torch.equal(scaled_sum(x, branch, scale), x + 2 * branch)
    assert torch.equal(added(x, branch, DropPath(1.0)), x)
    assert torch.equal(added(x, branch, drop_path.eval()), x + branch)
