"""The network in each float type, on each backend, with and without autocast: output and gradients against fp64."""

from contextlib import nullcontext

import pytest
import torch
from helpers.scan_inputs import relative_error
from torch import Tensor

from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.distillation import DualSelfDistillation
from nnunetv2_dsvm.ops.layer_norm import layer_norm

SIZES = {"dims": (16, 32), "encoder_depths": (1, 1), "decoder_depths": (1, 1), "d_state": 4}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-1}
DTYPES = list(TOLERANCE)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
WHERE = [("cpu", "torch_chunked"), ("cpu", "reference"), *(("cuda", name) for name in ("auto", "torch_chunked"))]
WHERE = [pytest.param(*where, marks=needs_cuda if where[0] == "cuda" else ()) for where in WHERE]


def run(dtype: torch.dtype, autocast: torch.dtype | None, device: str, backend: str) -> tuple[Tensor, Tensor]:
    """Logits and all gradients, on one line each; an image of odd sizes."""
    torch.manual_seed(0)
    network = VMUNet(1, 2, **SIZES, deep_supervision=True, drop_path_rate=0.0, scan_backend=backend)
    network = network.train().to(device, dtype)
    network.return_features = True
    image = torch.randn(2, 1, 19, 37, dtype=torch.float64).to(device, dtype)
    with torch.autocast(device, autocast) if autocast else nullcontext():
        output = network(image)
    parts = [*output.logits, *output.encoder_features, *output.decoder_features]
    sum(part.double().square().mean() for part in parts).backward()
    assert all(p.grad.dtype == dtype for p in network.parameters())
    logits, gradients = output.logits, [p.grad for p in network.parameters()]
    return tuple(torch.cat([t.detach().double().flatten().cpu() for t in part]) for part in (logits, gradients))


@pytest.fixture(scope="module")
def expected() -> tuple[Tensor, Tensor]:
    return run(torch.float64, None, "cpu", "reference")


@pytest.mark.parametrize(("device", "backend"), WHERE)
@pytest.mark.parametrize("autocast", [None, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_output_and_gradients(expected, one_thread, dtype, autocast, device, backend):
    if autocast and backend == "reference":
        pytest.skip("as without the backend's name")
    tolerance = max(TOLERANCE[dtype], TOLERANCE[autocast] if autocast and dtype != torch.float64 else 0)
    if device == "cuda":
        tolerance = max(tolerance, 1e-9 if dtype == torch.float64 else 2e-3)  # TF32 in convolutions
    for got, right in zip(run(dtype, autocast, device, backend), expected, strict=True):
        assert relative_error(got, right) <= tolerance


@pytest.mark.parametrize("parameters", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layer_norm_of_one_type_with_parameters_of_another(dtype, parameters):
    x, gate = torch.randn(2, 5, 6, dtype=torch.float64).to(dtype).requires_grad_(), torch.randn(2, 5, 6).to(dtype)
    weight, bias = torch.randn(2, 6).to(parameters)
    y = layer_norm(x, weight, bias, 1e-5, gate=gate)
    wide = [t.detach().double() for t in (x, weight, bias, gate)]
    right = torch.nn.functional.layer_norm(wide[0], (6,), wide[1], wide[2]) * torch.nn.functional.silu(wide[3])
    y.sum().backward()
    assert y.dtype == dtype and x.grad.isfinite().all()
    assert relative_error(y, right) <= max(TOLERANCE[dtype], 1e-5 if dtype == torch.float32 else 0)


@pytest.mark.parametrize("projection", ["convolution", "pooling"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_distillation(dtype, projection):
    exact = DualSelfDistillation([8, 16], [8, 16], projection=projection).double()
    features = [[torch.randn(2, c, s, s + 1, dtype=torch.float64) for c, s in ((8, 5), (16, 3))] for _ in range(2)]

    def value_and_gradients(distillation: DualSelfDistillation, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        leaves = [[f.to(dtype, copy=True).requires_grad_() for f in side] for side in features]
        total = sum(distillation(*leaves).values())
        total.backward()
        gradients = [t.grad for t in (*leaves[0], *leaves[1], *distillation.parameters()) if t.grad is not None]
        return total, torch.cat([g.double().flatten() for g in gradients])

    right = value_and_gradients(exact, torch.float64)
    exact.zero_grad(set_to_none=True)
    for got, expected in zip(value_and_gradients(exact.to(dtype), dtype), right, strict=True):
        assert relative_error(got, expected) <= TOLERANCE[dtype]
