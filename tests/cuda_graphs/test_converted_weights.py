"""The weights of a recorded call's products, converted together: the same bits by fewer conversions."""

import pytest
import torch
from helpers.recorded_here import GraphsHere
from helpers.tiny_relatives import TINY
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nnunetv2_dsvm.architecture.blocks.resampling import PatchEmbedding
from nnunetv2_dsvm.architecture.relatives.msvm_unet import MSVMUNet
from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.cuda_graphs import CALLS_BEFORE
from nnunetv2_dsvm.cuda_graphs.autograd_graph import weights_are_shared
from nnunetv2_dsvm.cuda_graphs.converted_weights import converted_weights


class Conversions(TorchDispatchMode):
    """Counts the conversions of one tensor, and those of many."""

    def __init__(self) -> None:
        super().__init__()
        self.single = self.together = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.single += func is torch.ops.aten._to_copy.default
        self.together += func is torch.ops.aten._foreach_copy_.default
        return func(*args, **(kwargs or {}))


@pytest.fixture
def network(one_thread) -> VMUNet:
    sizes = {"dims": (8, 16), "encoder_depths": (1, 1), "decoder_depths": (1, 1), "d_state": 2}
    return VMUNet(1, 2, **sizes, drop_path_rate=0.0).train()


def _step(network: VMUNet, x: Tensor, dtype: torch.dtype) -> list[Tensor | None]:
    network.zero_grad()
    with torch.autocast("cpu", dtype):
        y = network(x)
    y.float().square().mean().backward()
    return [y.detach().clone(), *(None if p.grad is None else p.grad.clone() for p in network.parameters())]


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b is None or torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_recorded_step_has_the_bits_of_one_that_is_not(network, dtype):
    network.cuda_graphs = GraphsHere(training=True)
    x = torch.randn(1, 1, 16, 16)
    steps = [_step(network, x, dtype) for _ in range(CALLS_BEFORE + 2)]
    assert len(network.cuda_graphs.graphs) == 1
    assert all(_equal(a, b) for step in steps[1:] for a, b in zip(steps[0], step, strict=True))
    assert all(type(p) is torch.nn.Parameter and p.dtype == torch.float32 for p in network.parameters())


def test_conversions_of_weights_and_gradients(network):
    """Each weight that learns has one of its own and one of its gradient; those of a frozen block are apart."""
    network.encoder.stages[0].requires_grad_(False)
    x, before = torch.randn(1, 1, 16, 16), {id(p) for p in network.parameters()}
    with Conversions() as plain:
        expected = _step(network, x, torch.bfloat16)
    with Conversions() as together, torch.autocast("cpu", torch.bfloat16):
        with converted_weights(network, "cpu"):
            y = network(x)
        y.float().square().mean().backward()
    assert together.together == 3 and plain.together == 0
    assert plain.single - together.single >= 2 * 14 - 4
    assert {id(p) for p in network.parameters()} == before
    assert torch.equal(y, expected[0])


@pytest.mark.usefixtures("one_thread")
def test_msvm_unet_has_the_same_bits_by_fewer_conversions():
    """Eight weights and biases of each of 7 blocks, two of 3 fusions, 4 expandings and 5 convolutions with a stride."""
    still = {"encoder_drop_path_rate": 0.0, "decoder_drop_path_rate": 0.0}
    network = MSVMUNet(1, 2, **TINY["MSVMUNet"], **still, scan_backend="reference").train()
    x = torch.randn(1, 1, 64, 64)
    with Conversions() as plain:
        expected = _step(network, x, torch.bfloat16)
    network.zero_grad()
    with Conversions() as together:
        with torch.autocast("cpu", torch.bfloat16), converted_weights(network, "cpu"):
            y = network(x)
        y.float().square().mean().backward()
    assert together.together == 2 and plain.single - together.single >= 2 * (8 * 7 + 2 * (3 + 4 + 5))
    assert all(_equal(a, b) for a, b in zip([y, *(p.grad for p in network.parameters())], expected, strict=True))


class Halves(nn.Linear):
    product_weights = ("weight",)


@pytest.mark.parametrize("converted", [False, True])
def test_weights_that_are_used_twice_are_seen(converted):
    """As parameters, and as what the parameters were converted to."""
    layer, x = Halves(3, 3, bias=False), torch.randn(2, 3)
    with torch.autocast("cpu", torch.bfloat16, enabled=converted), converted_weights(layer, "cpu"):
        once, twice = layer(x), layer(layer(x))
    assert weights_are_shared([twice]) and weights_are_shared([once, twice]) and not weights_are_shared([once])


class OneOfTwo(nn.Module):
    """A part of it is never called, as a head without a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = Halves(3, 3, bias=False), Halves(3, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def test_a_weight_that_has_no_part_in_the_result_has_no_gradient():
    """An optimiser with weight decay would shrink it for a gradient of zeros, and leaves it alone without."""
    network = OneOfTwo()
    with torch.autocast("cpu", torch.bfloat16), converted_weights(network, "cpu"):
        y = network(torch.randn(2, 3))
    grads = torch.autograd.grad(y.float().sum(), [network.used.weight, network.unused.weight], allow_unused=True)
    assert grads[0] is not None and grads[1] is None


class OtherEmbedding(PatchEmbedding):
    """A user's, with a projection of another name."""

    def __init__(self, dim: int) -> None:
        nn.Module.__init__(self)
        self.stem = nn.Conv2d(1, dim, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.stem(x)


def test_a_subclass_without_a_module_that_its_class_names_is_recorded_too():
    embedding, x = OtherEmbedding(3), torch.randn(1, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16), converted_weights(embedding, "cpu"):
        assert embedding(x).shape == (1, 3, 2, 2)
