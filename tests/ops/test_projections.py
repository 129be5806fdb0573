"""The matrix and A that the fused scan takes, against torch's operators one by one."""

import pytest
import torch

from nnunetv2_dsvm.ops.projections import scan_weights

DIRECTIONS, RANK, D_STATE, CHANNELS = 4, 6, 3, 20


def _weights() -> list[torch.Tensor]:
    sizes = (DIRECTIONS, RANK + 2 * D_STATE, CHANNELS), (DIRECTIONS, CHANNELS, RANK), (DIRECTIONS, CHANNELS, D_STATE)
    return [torch.randn(size, requires_grad=True) for size in sizes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_bits_of_results_and_gradients(dtype):
    x_proj, dt_proj, A_log = weights = _weights()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        got = scan_weights(*weights)
        to_dt, to_states = torch.bmm(dt_proj, x_proj[:, :RANK]), x_proj[:, RANK:].to(dtype)
        expected = torch.cat([to_dt.flatten(0, 1), to_states.flatten(0, 1)]), -torch.exp(A_log)
    upstream = [torch.randn_like(t) for t in expected]
    got = *got, *torch.autograd.grad(got, weights, upstream)
    expected = *expected, *torch.autograd.grad(expected, weights, upstream)
    assert [t.dtype for t in got] == [dtype] + [torch.float32] * 4
    if dtype == torch.float32:  # AMD's processors add up the products of x_proj's gradient in another order
        torch.testing.assert_close(got[2], expected[2], rtol=1e-6, atol=1e-5)
        got, expected = (tuple(t for i, t in enumerate(all_of) if i != 2) for all_of in (got, expected))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_compiled_and_as_an_operator():
    weights = _weights()
    compiled = torch.compile(scan_weights, fullgraph=True, backend="eager")
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(compiled(*weights), scan_weights(*weights), strict=True))
    torch.library.opcheck(torch.ops.nnunetv2_dsvm.scan_weights.default, (*weights, torch.float32))
