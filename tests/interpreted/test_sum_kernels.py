"""The sums of parameters' gradients after Triton's kernels, against torch's in fp64."""

import pytest
import torch
from helpers.scan_inputs import relative_error

from nnunetv2_dsvm.ops.triton.sums import sum_rows


@pytest.mark.parametrize("rows", [1, 33, 1057])
def test_sums_of_two_tensors_in_one_launch(rows):
    """More rows than a tile has, and columns that do not fill theirs."""
    first, second = torch.randn(rows, 7, 1, 3, 3), torch.randn(rows, 7)
    for sums, parts in zip(sum_rows(first, second, first[0].bfloat16(), second[0]), (first, second), strict=True):
        assert relative_error(sums, parts.double().sum(0)) <= (4e-3 if sums.dtype == torch.bfloat16 else 1e-6)
        assert sums.shape == parts.shape[1:]
