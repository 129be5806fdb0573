"""What is put off while a graph is recorded: nothing reads it too early, and nothing overwrites what it reads."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nnunetv2_dsvm.architecture.blocks.layer_norm import LayerNorm
from nnunetv2_dsvm.architecture.blocks.vss_block import VSSBlock
from nnunetv2_dsvm.cuda_graphs.autograd_graph import weights_are_computed, weights_are_shared
from nnunetv2_dsvm.cuda_graphs.converted_weights import converted_weights
from nnunetv2_dsvm.distillation import DualSelfDistillation
from nnunetv2_dsvm.ops import side_branch

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the streams are none of a GPU's")


class Stream:
    """Of no GPU: which streams have waited for which."""

    cuda_stream = 1

    def __init__(self) -> None:
        self.waited: list[Stream] = []

    def wait_stream(self, other: "Stream") -> None:
        self.waited.append(other)


@pytest.fixture
def recorded(monkeypatch):
    """(the recorded stream, the one beside it), for calls on the CPU."""
    main, side = Stream(), Stream()
    monkeypatch.setattr(side_branch, "stream_of", lambda device: main.cuda_stream)
    return main, side


class Twice(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def _gradients(network: nn.Module, x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32), converted_weights(network, "cpu"):
        y = network(x)
    assert not weights_are_computed([y])
    return [y, *torch.autograd.grad(y.float().square().sum(), [x, *network.parameters()])]


@pytest.mark.parametrize(
    ("sizes", "blocks", "dtype"), [((1, 2), 2, torch.bfloat16), ((1, 1, 2), 1, torch.float32)], ids=str
)
def test_a_network_has_the_bits_of_one_that_puts_nothing_off(recorded, sizes, blocks, dtype):
    network = nn.Sequential(
        *(VSSBlock(2, 1, scan_backend="triton", axes=len(sizes)) for _ in range(blocks)), LayerNorm(2)
    )
    x = torch.randn(1, *sizes, 2, requires_grad=True)
    expected = _gradients(network, x, dtype)
    with side_branch.side_branch(*recorded):
        got = _gradients(network, x, dtype)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    main, side = recorded
    # In each block forward for its weights and backward for its gradients; at the end what comes after the last.
    assert side.waited == [main] * (2 * blocks + 1) and main.waited == [side] * (2 * blocks + 1)


@pytest.mark.parametrize("computed", [False, True])
def test_the_self_distillation_has_the_bits_of_one_that_puts_nothing_off(recorded, computed):
    """Both terms; where a weight is made of a parameter, autograd goes on when its gradient is there."""
    module, features = DualSelfDistillation([8, 16], [8, 16]), []
    if computed:
        parametrize.register_parametrization(module.terms["projection"].encoder_projections[1], "weight", Twice())
    for channels, size in [(8, 4), (16, 2)] * 2:
        memory = torch.randn(2, size, size, channels)
        features.append(memory.permute(0, 3, 1, 2).requires_grad_())
    wanted = [*features[:2], features[3], *module.parameters()]

    def gradients() -> tuple[Tensor, ...]:
        terms = module(features[:2], features[2:])
        assert not weights_are_shared(list(terms.values()), features)
        return torch.autograd.grad(2 * terms["projection"] + terms["progressive"], wanted)

    expected = gradients()
    main, side = recorded
    waits_when_computed: list[int] = []
    if computed:
        leaf = next(p for p in module.parameters() if p.shape == (8, 16, 1, 1))
        leaf.register_hook(lambda grad: waits_when_computed.append(len(main.waited)))
    with side_branch.side_branch(main, side):
        got = gradients()
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    # In each term backward for its weights' gradients; at the end what comes after the last.
    assert side.waited == [main] * 2 and main.waited == [side] * 2
    assert waits_when_computed == [2] * computed


def test_order_and_sizes(recorded):
    """Small work waits for the fork, and keeps what it reads until it is waited for; large work does not wait."""
    out, done = torch.empty(1), []
    with side_branch.side_branch(*recorded):
        side_branch.later(lambda: done.append("small"), out)
        side_branch.later(lambda: done.append("large"), out, elements=1 << 26)
        assert done == ["large"]
        side_branch.fork(out.device)
        assert done == ["large", "small"] and not recorded[0].waited
        side_branch.later(lambda: done.append("last"), out)
    assert done[-1] == "last" and len(recorded[0].waited) == 2
    side_branch.later(lambda: done.append("at once"), out)
    assert done[-1] == "at once"


def test_products_in_the_type_of_the_result():
    a, b = torch.randn(2, 3).bfloat16(), torch.randn(3, 4).bfloat16()
    for dtype in (torch.bfloat16, torch.float32):
        out = torch.empty(2, 4, dtype=dtype)
        side_branch.product_later(a, b, out)
        assert torch.equal(out, (a @ b).to(dtype))


def test_weights_that_are_computed_from_parameters_are_seen():
    """Autograd goes on with their gradients on the recorded stream: such networks get no branch."""
    norm, x = LayerNorm(4), torch.randn(3, 4)
    assert not weights_are_computed([norm(x)])
    parametrize.register_parametrization(norm, "weight", Twice())
    assert weights_are_computed([norm(x)]) and not weights_are_shared([norm(x)])
