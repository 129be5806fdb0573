"""Finite images whose logits are not: they are refused, and the named variable predicts them."""

from contextlib import nullcontext

import pytest
import torch

from nnunetv2_dsvm.architecture.precision import VARIABLE
from nnunetv2_dsvm.architecture.vm_unet import VMUNet

SIZES = {"dims": (16, 32), "encoder_depths": (1, 1), "decoder_depths": (1, 1), "d_state": 4}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def network(one_thread, monkeypatch) -> VMUNet:
    monkeypatch.delenv(VARIABLE, raising=False)
    torch.manual_seed(1)
    network = VMUNet(1, 3, **SIZES, deep_supervision=True).eval()
    network.encoder.patch_embedding.projection.weight.data *= 4  # 16 products of each image: their sum overflows
    return network


def of_16_bit(batch: int = 1) -> torch.Tensor:
    """An image as a microscope or a CT without a normalisation gives it."""
    return torch.randint(2**16, (batch, 1, 40, 24)).float()


@pytest.mark.parametrize("mode", ["inference", "evaluation with autograd", "training mode without autograd"])
def test_on_a_cpu_overflow_in_float16_is_refused(network, mode):
    network.train("training" in mode)
    network.return_features = True
    without = nullcontext() if "with autograd" in mode else torch.no_grad()
    sentence = rf"image is finite \(intensities from .* to 65\d\d\d\).*float16.*{VARIABLE}=float32 \(or bfloat16\)"
    with without, torch.autocast("cpu", torch.float16), pytest.raises(ValueError, match=sentence):
        network(of_16_bit())


def test_weights_in_float16_are_refused_with_another_advice(network):
    with torch.no_grad(), pytest.raises(ValueError, match=r"float16.*network\.float\(\)"):
        network.half()(of_16_bit().clamp(max=65000).half())


@pytest.mark.parametrize("autocast", [torch.float16, torch.bfloat16, None], ids=str)
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_the_variable_predicts_it(network, monkeypatch, name, autocast):
    image = of_16_bit()
    with torch.no_grad():
        right = network(image)
        monkeypatch.setenv(VARIABLE, name)
        with torch.autocast("cpu", autocast) if autocast else nullcontext():
            given = network(image)
    for ours, expected in zip(given, right, strict=True):
        assert ours.dtype == getattr(torch, name)
        if name == "float32":
            assert torch.equal(ours, expected)
        assert (ours.argmax(1) == expected.argmax(1)).float().mean() >= 0.98


def test_the_variable_has_no_part_in_training_and_other_names_are_refused(network, monkeypatch):
    monkeypatch.setenv(VARIABLE, "float32")
    with torch.autocast("cpu", torch.bfloat16):
        assert network.train()(torch.rand(1, 1, 16, 16))[0].dtype == torch.bfloat16
    monkeypatch.setenv(VARIABLE, "fp32")
    with torch.no_grad(), pytest.raises(ValueError, match=f"{VARIABLE}=fp32: expected float32 or bfloat16"):
        network.eval()(of_16_bit())


def test_weights_that_are_not_finite_are_named(network):
    network.decoder.seg_layers[0].bias.data[1] = torch.nan
    with torch.no_grad(), pytest.raises(ValueError, match=r"1 of its parameters .*decoder\.seg_layers\.0\.bias"):
        network(torch.rand(1, 1, 16, 16))


def test_a_compiled_network_gives_infinite_logits(network):
    """So nnU-Net stops: in a compiled program nothing may wait for a result."""
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        assert all(logits.isinf().all() for logits in compiled(of_16_bit()))
        assert all(logits.isfinite().all() for logits in compiled(torch.rand(1, 1, 40, 24)))


@needs_cuda
def test_on_a_gpu_the_logits_are_infinite_and_the_variable_predicts_it(network, monkeypatch):
    network = network.cuda()
    image = of_16_bit(2).cuda()
    for _ in range(5):  # without and with a graph
        monkeypatch.delenv(VARIABLE, raising=False)
        with torch.inference_mode(), torch.autocast("cuda", torch.float16):
            assert all(logits.isinf().all() for logits in network(image))
            assert all(logits.isfinite().all() for logits in network(image / 65536))
        with torch.inference_mode():
            right = network(image)
        for name in ("float32", "bfloat16"):
            monkeypatch.setenv(VARIABLE, name)
            with torch.inference_mode(), torch.autocast("cuda", torch.float16):
                given = network(image)
            for ours, expected in zip(given, right, strict=True):
                assert name == "bfloat16" or torch.equal(ours, expected)
                assert (ours.argmax(1) == expected.argmax(1)).float().mean() >= 0.97
