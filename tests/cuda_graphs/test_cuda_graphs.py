"""CUDA graphs of the network: everything here that needs a GPU is skipped without one; the rest runs anywhere."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.cuda_graphs import CALLS_BEFORE, CudaGraphs
from nnunetv2_dsvm.cuda_graphs.conditions import state_key
from nnunetv2_dsvm.distillation import DualSelfDistillation
from nnunetv2_dsvm.training.loss import SegmentationWithDistillationLoss

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def _deterministic_convolutions(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def _network(training: bool = False, **options) -> VMUNet:
    torch.manual_seed(0)
    network = VMUNet.from_preset("small", 1, 2, **options)
    network.cuda_graphs.training = training
    return network


def _without_graphs(network: VMUNet) -> VMUNet:
    twin = copy.deepcopy(network)
    twin.cuda_graphs = CudaGraphs(inference=False, training=False)
    return twin


def test_on_a_cpu_nothing_is_recorded():
    network = _network(training=True)
    for _ in range(CALLS_BEFORE + 2):
        network(torch.randn(1, 1, 32, 32)).sum().backward()
    assert not network.cuda_graphs.graphs


def test_copies_and_pickles_keep_the_switches_and_no_graph():
    graphs = CudaGraphs(inference=False, training=True, inputs_stay=True)
    for twin in (copy.deepcopy(graphs), pickle.loads(pickle.dumps(graphs))):
        assert (twin.inference, twin.training, twin.inputs_stay, len(twin.graphs)) == (False, True, True, 0)


def test_what_a_graph_depends_on():
    network, x = _network(), torch.randn(1, 1, 32, 32)
    before = state_key(network, [x], {})
    assert before is not None and state_key(network, [x], {}) == before
    network.decoder.seg_layers[0].bias = nn.Parameter(network.decoder.seg_layers[0].bias.data)  # the same memory
    assert state_key(network, [x], {}) != before
    # The copies that nn.DataParallel makes for each call hold their weights where they are not seen.
    assert state_key(network._replicate_for_data_parallel(), [x], {}) is None


@needs_cuda
def test_gradients_outlive_an_inference_before_the_optimiser():
    network = _network(training=True).cuda()
    x = torch.randn(2, 1, 64, 64, device="cuda")
    for _ in range(CALLS_BEFORE + 2):
        with torch.no_grad():
            network.eval()(x)
    for _ in range(CALLS_BEFORE + 2):
        network.zero_grad(set_to_none=True)
        network.train()(x).square().mean().backward()
    kept = [p.grad.clone() for p in network.parameters()]
    with torch.no_grad():
        network.eval()(x)
    assert all(torch.equal(a, p.grad) for a, p in zip(kept, network.parameters(), strict=True))


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_inference_gives_the_same_bits_and_follows_the_weights(dtype):
    network = _network().cuda().eval()
    plain = _without_graphs(network)
    kept: list[tuple[Tensor, Tensor]] = []
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        for i in range(CALLS_BEFORE + 4):
            if i == CALLS_BEFORE + 2:
                with torch.no_grad():
                    for twin in (network, plain):
                        twin.encoder.patch_embedding.projection.weight.mul_(2.0)
            x = torch.randn(2, 1, 64, 48, device="cuda")
            with torch.inference_mode():
                kept.append((network(x), plain(x)))
    assert len(network.cuda_graphs.graphs) == 1
    for ours, expected in kept:
        assert torch.equal(ours, expected)


def _backward(network: VMUNet, x: Tensor, dtype: torch.dtype) -> Tensor:
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        output = network(x)
    loss = output.logits.float().square().mean() + sum(f.float().square().mean() for f in output.encoder_features)
    loss.backward()
    return loss.detach().clone()


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_training_gives_the_same_losses_and_gradients(dtype):
    network = _network(training=True).cuda().train()
    plain = _without_graphs(network)
    for twin in (network, plain):
        twin.return_features = True
    tolerance = 1e-5 if dtype == torch.float32 else 1e-3  # the products' summation may differ
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    for _ in range(CALLS_BEFORE + 4):
        x = torch.randn(2, 1, 64, 64, device="cuda")
        optimizer.zero_grad(set_to_none=True)
        plain.zero_grad(set_to_none=True)
        losses = [_backward(twin, x, dtype) for twin in (network, plain)]
        torch.testing.assert_close(*losses, rtol=tolerance, atol=0)
        ours, expected = (torch.cat([p.grad.flatten() for p in twin.parameters()]) for twin in (network, plain))
        assert (ours - expected).norm() <= tolerance * expected.norm()
        optimizer.step()
        plain.load_state_dict(network.state_dict())
    assert len(network.cuda_graphs.graphs) == 1


@needs_cuda
def test_gradients_accumulate_and_overlapping_forwards_do_not_disturb_each_other():
    network = _network(training=True).cuda().train()
    plain = _without_graphs(network)
    images = [torch.randn(1, 1, 32, 32, device="cuda") for _ in range(CALLS_BEFORE + 3)]
    for twin in (network, plain):
        for x in images:
            twin(x).square().mean().backward()
        first, second = twin(images[0]), twin(images[1])
        with torch.no_grad():
            twin(images[2])
        (first.square().mean() + second.square().mean()).backward()
    for ours, expected in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-5, atol=1e-7)


@needs_cuda
def test_hooks_see_every_call_and_a_second_backward_is_refused():
    network = _network(training=True).cuda().train()
    x = torch.randn(1, 1, 32, 32, device="cuda")
    for _ in range(CALLS_BEFORE + 1):
        network(x).sum().backward()
    loss = network(x).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r"cuda_graphs\.training"):
        loss.backward()
    seen = []
    network.encoder.register_forward_hook(lambda *_: seen.append(1))
    network(x)
    assert seen


@needs_cuda
@pytest.mark.parametrize(
    ("preset", "options", "dtype", "images", "tolerance"),
    [
        ("small", {}, torch.float32, (2, 1, 64, 64), 1e-4),
        ("small", {"scan": False}, torch.float32, (2, 1, 64, 64), 1e-4),
        # Larger, in 16 bit. Passes with a cuBLAS workspace shared by the two graphs too: it does not show that fault.
        ("base", {}, torch.bfloat16, (64, 1, 96, 128), 1e-2),
    ],
)
def test_the_distillation_is_recorded_after_the_network_and_gives_the_same_gradients(
    preset, options, dtype, images, tolerance
):
    torch.manual_seed(0)
    network = VMUNet.from_preset(preset, 1, 8, drop_path_rate=0.0, **options).cuda().train()
    network.return_features = network.cuda_graphs.training = True
    channels = network.encoder.output_channels
    loss = SegmentationWithDistillationLoss(
        nn.CrossEntropyLoss(), DualSelfDistillation(channels, channels), {"projection": 1.0, "progressive": 1.0}, 0
    ).cuda()
    plain, plain_loss = _without_graphs(network), copy.deepcopy(loss)
    loss.distillation.cuda_graphs.training = True
    for _ in range(2 * CALLS_BEFORE + 4):
        x = torch.randn(images, device="cuda")
        target = torch.randint(8, (images[0], *images[2:]), device="cuda")
        pairs = ((network, plain), (loss, plain_loss))
        for module in (module for pair in pairs for module in pair):
            module.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            losses = [loss(network(x), target), plain_loss(plain(x), target)]
        for value in losses:
            value.backward()
        torch.testing.assert_close(*losses, rtol=tolerance / 10, atol=0)
        for ours, expected in ([torch.cat([p.grad.flatten() for p in m.parameters()]) for m in pair] for pair in pairs):
            assert (ours - expected).norm() <= tolerance * expected.norm()
    assert len(network.cuda_graphs.graphs) == len(loss.distillation.cuda_graphs.graphs) == 1


@needs_cuda
def test_outputs_of_earlier_steps_may_be_kept():
    network = _network(training=True).cuda().train()
    kept = [network(torch.randn(1, 1, 32, 32, device="cuda")).sum() for _ in range(CALLS_BEFORE)]
    for _ in range(2):
        network(torch.randn(1, 1, 32, 32, device="cuda")).sum().backward()
    assert len(network.cuda_graphs.graphs) == 1 and all(value.requires_grad for value in kept)


@needs_cuda
def test_what_cannot_be_recorded_runs_without_and_stays_random():
    class Waiting(nn.Module):
        """Copies a value to the CPU, which no graph can do."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones((), device="cuda"))

        def forward(self, x: Tensor) -> Tensor:
            return torch.rand_like(x) * self.scale * (1 if x.sum().item() > 0 else 2)

    module, graphs = Waiting(), CudaGraphs(training=True)
    x = torch.ones(3, device="cuda")
    drawn = [graphs(module, module.forward, x) for _ in range(CALLS_BEFORE + 3)]
    assert not graphs.graphs
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(drawn))
