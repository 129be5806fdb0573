"""The fused kernels on a real GPU, at sizes that the interpreter would take hours for; skipped without a GPU."""

import copy
from threading import Thread

import pytest
import torch
import torch.nn.functional as F
from helpers.sequence_networks import U_MAMBAS, check_goes_as_in_fp32, losses_of, u_mamba
from helpers.short_trainers import ShortDistilled, ShortNnUNet, checkpoint_of, without_pictures
from helpers.tiny_dataset import TinyDataset, plan_and_preprocess_here, write_raw_dataset
from helpers.tiny_relatives import TINY
from helpers.unets import CONFIGURATIONS, UNET_3D

from nnunetv2_dsvm.architecture.blocks.directional_scan import DirectionalScan
from nnunetv2_dsvm.architecture.blocks.vss_block import DropPath, VSSBlock
from nnunetv2_dsvm.architecture.relatives.light_m_unet import LightMUNet
from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES
from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.benchmark.cases.core import CoreCase
from nnunetv2_dsvm.benchmark.cases.network import DiceAndCrossEntropy
from nnunetv2_dsvm.benchmark.correctness import check_core
from nnunetv2_dsvm.cuda_graphs import CALLS_BEFORE
from nnunetv2_dsvm.distillation import DualSelfDistillation
from nnunetv2_dsvm.distillation.dual import compiled_terms
from nnunetv2_dsvm.ops import ScanOrder, selective_scan, ss2d_scan
from nnunetv2_dsvm.ops.backends.triton import Triton
from nnunetv2_dsvm.ops.dispatch import fused_operators
from nnunetv2_dsvm.ops.fused.depthwise import depthwise_convolution
from nnunetv2_dsvm.ops.fused.normalised import normalised_convolution
from nnunetv2_dsvm.ops.fused_core import scan_core
from nnunetv2_dsvm.ops.nvrtc import scan as nvrtc_scan
from nnunetv2_dsvm.ops.scan_inputs import ScanShape
from nnunetv2_dsvm.ops.scan_order import atrous_orders
from nnunetv2_dsvm.ops.testing import AUTOCAST_TOLERANCE, TOLERANCE, check_scan, compare, random_inputs, relative_l2
from nnunetv2_dsvm.training.loss import SegmentationWithDistillationLoss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# batch, height, width, d_inner, d_state: against the plain loop where they are small, else the chunked scan in fp64
SMALL = [(1, 1, 1, 8, 1), (2, 5, 7, 12, 16), (1, 7, 14, 36, 8), (1, 2, 3, 34, 64)]
LARGE = [(1, 128, 128, 96, 16), (2, 77, 131, 48, 8), (8, 64, 64, 192, 16), (32, 16, 16, 384, 16), (40, 8, 8, 768, 1)]


def grid(batch: int, height: int, width: int, d_inner: int, d_state: int = 16) -> ScanShape:
    return ScanShape.of_grid(batch, (height, width), d_inner, d_state)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SMALL + LARGE, ids=lambda s: "x".join(map(str, s)))
def test_scan(shape, dtype):
    """`check_scan` raises above 1e-5 in fp32, 2e-3 in fp16 and 1e-2 in bf16, for the output and each gradient."""
    oracle = "reference" if shape in SMALL else "torch_chunked"
    assert check_scan("triton", grid(*shape), dtype, torch.device("cuda"), oracle) > 0


# Odd sides, an axis of 1, warps and blocks without channels, more than one interval and chunk.
CUDA_SHAPES = [(1, 1, 1, 8), (2, 5, 7, 24), (1, 1, 200, 16), (1, 200, 1, 72), (1, 31, 17, 200), (40, 8, 8, 96)]


@pytest.fixture
def cuda_kernels(monkeypatch):
    """Skips where they do not run."""
    monkeypatch.delenv(nvrtc_scan.VARIABLE, raising=False)
    supported, reason = nvrtc_scan.supports(torch.device("cuda"), torch.bfloat16, 16, 64, True)
    if not supported:
        pytest.skip(reason)


@pytest.mark.parametrize("shape", CUDA_SHAPES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.usefixtures("cuda_kernels")
def test_cuda_kernels(shape):
    """The output and each gradient against the plain loop in fp64."""
    assert check_scan("triton", grid(*shape), torch.bfloat16, torch.device("cuda"), "reference") > 0


@pytest.mark.parametrize("shape", CUDA_SHAPES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.usefixtures("cuda_kernels")
def test_cuda_kernels_without_gradients_in_half_precision(shape):
    """From delta against the plain loop in fp64, from dt against the core that trains, which is Triton's."""
    shape = grid(*shape)
    inputs = random_inputs(shape, torch.float16, torch.device("cuda"))
    y = selective_scan(*inputs, sizes=shape.sizes, backend="triton")
    expected = selective_scan(*(t.double().cpu() for t in inputs), sizes=shape.sizes, backend="reference")
    assert relative_l2(y, expected) <= TOLERANCE[torch.float16]
    x, _, A, _, _, D, bias = inputs
    weight = torch.randn(shape.directions * (shape.d_inner + 2 * shape.d_state), shape.d_inner, device="cuda")
    weight *= shape.d_inner**-0.5
    y, trained = (scan_core(x, w, A, D, bias, sizes=shape.sizes) for w in (weight, weight.clone().requires_grad_()))
    assert y.dtype == torch.float32 and relative_l2(y, trained) <= TOLERANCE[torch.float16]
    halves = [t.half() for t in (weight, A, D, bias)]  # of a network that is in half precision itself
    as_floats, as_halves = (
        scan_core(x, *parameters, sizes=shape.sizes) for parameters in ([t.float() for t in halves], halves)
    )
    assert relative_l2(as_halves, as_floats) <= TOLERANCE[torch.float16]


def _gradients(seed: int = 0) -> list[torch.Tensor]:
    x, dt, A, B, C, D, bias = random_inputs(grid(2, 40, 24, 208), torch.bfloat16, torch.device("cuda"), seed)
    inputs = [t.requires_grad_() for t in (x, dt, A, B, C, D, bias)]
    y = ss2d_scan(*inputs, height=40, width=24)
    return [y, *torch.autograd.grad(y.float().square().sum(), inputs)]


def test_cuda_kernels_give_the_same_bits_and_about_those_of_triton(cuda_kernels, monkeypatch):
    first, second = _gradients(), _gradients()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    monkeypatch.setenv(nvrtc_scan.VARIABLE, "0")
    for ours, tritons in zip(first, _gradients(), strict=True):
        assert (ours.float() - tritons.float()).norm() <= 1e-2 * tritons.float().norm()


@pytest.mark.usefixtures("cuda_kernels")
def test_cuda_kernels_run_in_a_thread_that_has_not_touched_the_gpu():
    here, there = _gradients(), []
    thread = Thread(target=lambda: there.extend(_gradients()))
    thread.start()
    thread.join()
    assert len(there) == len(here) and all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


# Sequences, volumes and orders of their own, as above: small ones against the loop.
SMALL_GRIDS = {
    "causal": ScanShape(2, (77,), 24, 16, 1, (ScanOrder((0,)),)),
    "sequence": ScanShape.of_grid(1, (50,), 12, 1),
    "odd volume": ScanShape.of_grid(2, (5, 3, 7), 12, 16),
    "slab": ScanShape.of_grid(1, (1, 9, 4), 34, 8),
    "one state": ScanShape.of_grid(1, (4, 4, 8), 136, 1),
    "two orders": ScanShape(1, (4, 3, 8), 32, 16, 2, (ScanOrder((1, 2, 0)), ScanOrder((0, 2, 1), reverse=True))),
    "atrous": ScanShape(2, (8, 12), 32, 16, 4, atrous_orders(2, 2)),
}
LARGE_GRIDS = {
    "stage 1": ScanShape.of_grid(2, (32, 32, 32), 192),
    "anisotropic": ScanShape.of_grid(2, (10, 64, 56), 96),
    "long": ScanShape.of_grid(1, (64, 64, 64), 16),
    "sequence of an image": ScanShape(2, (16384,), 128, 16, 1, (ScanOrder((0,)),)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*SMALL_GRIDS, *LARGE_GRIDS])
def test_other_grids(name, dtype):
    shape, oracle = (SMALL_GRIDS | LARGE_GRIDS)[name], "reference" if name in SMALL_GRIDS else "torch_chunked"
    assert check_scan("triton", shape, dtype, torch.device("cuda"), oracle) > 0


@pytest.mark.parametrize(
    "name", ["causal", "odd walks", "two orders", "stage 1", "anisotropic", "sequence of an image"]
)
@pytest.mark.usefixtures("cuda_kernels")
def test_cuda_kernels_of_other_grids(name):
    """Output and gradients as above."""
    odd = {"odd walks": ScanShape.of_grid(2, (5, 3, 7), 24)}
    shape, oracle = (SMALL_GRIDS | LARGE_GRIDS | odd)[name], "torch_chunked" if name in LARGE_GRIDS else "reference"
    like = torch.empty(0, device="cuda")
    assert Triton().saved_states(shape, torch.bfloat16, like).dtype == torch.bfloat16  # CUDA C++ saves these
    assert check_scan("triton", shape, torch.bfloat16, torch.device("cuda"), oracle) > 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "size", [(2, 32, 32, 32, 192), (3, 1, 9, 5, 24), (1, 5, 7, 1, 33), (2, 10, 64, 56, 96)], ids=str
)
def test_convolution_of_volumes(size, dtype):
    """Output and gradients against torch's in fp64; a second time, the same bits."""
    u, grad = (torch.randn(size, device="cuda").to(dtype) for _ in range(2))
    weight, bias = torch.randn(size[-1], 1, 3, 3, 3, device="cuda"), torch.randn(size[-1], device="cuda")
    fused = fused_operators("triton")
    got, again = (
        (
            fused.convolution_forward(u, weight, bias, True),
            *fused.convolution_backward(grad.clone(), u, weight, bias, True, True),
        )
        for _ in range(2)
    )
    exact = [t.double().requires_grad_() for t in (u, weight, bias)]
    convolved = F.conv3d(exact[0].movedim(-1, 1), exact[1], exact[2], padding=1, groups=size[-1])
    active = F.silu(convolved).movedim(1, -1)
    expected = active, *torch.autograd.grad(active, exact, grad.double())
    names = ("active", "u", "weight", "bias")
    compare("convolution", names, got, expected, TOLERANCE[dtype])
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("kernel", "activation"), [(3, "silu"), (3, "none"), (5, "silu"), (5, "none")])
@pytest.mark.parametrize("size", [(4, 64, 64, 96), (2, 31, 17, 384), (3, 1, 5, 33), (2, 16, 16, 1536)], ids=str)
def test_convolution_of_images(size, kernel, activation, dtype):
    """The operator without a bias where SiLU follows, as above."""
    x, grad = (torch.randn(size, device="cuda").to(dtype) for _ in range(2))
    channels = size[-1]
    bias = None if activation == "silu" else torch.randn(channels, device="cuda")
    inputs = [x, torch.randn(channels, 1, kernel, kernel, device="cuda"), *([] if bias is None else [bias])]

    def with_gradients(convolve, inputs, grad):
        inputs = [t.detach().requires_grad_() for t in inputs]
        y = convolve(*inputs)
        return [y, *torch.autograd.grad(y, inputs, grad)]

    def convolved(x, weight, bias=None):
        y = F.conv2d(x.movedim(-1, 1), weight, bias, padding=kernel // 2, groups=channels).movedim(1, -1)
        return F.silu(y) if activation == "silu" else y

    got, again = (
        with_gradients(lambda *t: depthwise_convolution(*t, activation=activation), inputs, grad) for _ in range(2)
    )
    expected = with_gradients(convolved, [t.double() for t in inputs], grad.double())
    names = ("y", "x", "weight", "bias")[: len(got)]
    compare("convolution", names, got, expected, TOLERANCE[dtype])
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("size", [(4, 64, 64, 384), (2, 31, 17, 33)], ids=str)
def test_norm_and_convolution(size, training, dtype):
    """Batch normalisation, ReLU and convolution in one operator, as above, and the running statistics."""
    layers = torch.nn.Sequential(
        torch.nn.BatchNorm2d(size[-1]), torch.nn.ReLU(), torch.nn.Conv2d(size[-1], size[-1], 3, 1, 1, groups=size[-1])
    )
    norm, _, conv = layers.cuda().train(training)
    for parameter in (norm.weight, norm.bias, norm.running_mean):
        torch.nn.init.normal_(parameter)
    exact = copy.deepcopy(layers).double()
    x, grad = (torch.randn(size, device="cuda").to(dtype) + 1 for _ in range(2))
    inputs = [x.requires_grad_(), *layers.parameters()]

    def with_gradients(mean, var):
        y = normalised_convolution(
            x, mean, var, norm.weight, norm.bias, conv.weight, conv.bias, training=training, momentum=0.1, eps=norm.eps
        )
        return [y, *torch.autograd.grad(y, inputs, grad), mean, var]

    got, again = (with_gradients(norm.running_mean.clone(), norm.running_var.clone()) for _ in range(2))
    wide = x.detach().double().requires_grad_()
    y = exact(wide.movedim(-1, 1)).movedim(1, -1)
    grads = torch.autograd.grad(y, [wide, *exact.parameters()], grad.double())
    names = ("y", "x", "gamma", "beta", "weight", "bias", "mean", "var")
    compare("norm", names, got, [y, *grads, exact[0].running_mean, exact[0].running_var], TOLERANCE[dtype])
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(2, 16, 16, 16, 96), (1, 5, 3, 7, 24), (2, 1, 12, 9, 48)], ids=str)
def test_block_of_volumes(size, dtype):
    """A fused block against itself on the chunked scan in fp64; a second time, the same bits."""
    fused = VSSBlock(size[-1], scan_backend="triton", axes=3).cuda()
    exact = VSSBlock(size[-1], scan_backend="torch_chunked", axes=3).cuda().double()
    exact.load_state_dict(fused.state_dict())

    def with_gradients(block, x):
        x = x.requires_grad_()
        y = block(x)
        return [y, *torch.autograd.grad(y.square().sum(), [x, *block.parameters()])]

    x = torch.randn(size, device="cuda")
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        got, again = (with_gradients(fused, x.clone()) for _ in range(2))
    names = ["output", "x", *(name for name, _ in fused.named_parameters())]
    compare("block", names, got, with_gradients(exact, x.double()), AUTOCAST_TOLERANCE[dtype])
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("size", [(4, 64, 64, 96), (2, 31, 17, 48), (3, 9, 13, 48)], ids=str)
def test_core(size, dtype):
    """The smallest is one chunk: there the CUDA C++ kernels make delta themselves."""
    assert check_core(CoreCase("core", "ours", *size, 16, dtype, "cuda"), oracle="torch_chunked") > 0


def _train(dtype: torch.dtype, steps: int = 120) -> list[float]:
    """The losses of a DSVM-UNet that learns to find discs in noise, with CUDA graphs, as the trainer trains it."""
    torch.manual_seed(0)
    network = VMUNet.from_preset("base", 1, 2).cuda().train()
    network.return_features = network.cuda_graphs.training = True
    distillation = DualSelfDistillation(network.encoder.output_channels, network.decoder.output_channels)
    weights = {"projection": 0.1, "progressive": 0.1}
    loss = SegmentationWithDistillationLoss(DiceAndCrossEntropy(), distillation, weights, 0).cuda()
    loss.distillation.cuda_graphs.training = True
    parameters = [*network.parameters(), *loss.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-4, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    random = torch.Generator("cuda").manual_seed(1)
    rows, columns = torch.meshgrid(*[torch.arange(128, device="cuda")] * 2, indexing="ij")
    values = []
    for _ in range(steps):
        centres = torch.randint(20, 108, (8, 2, 1, 1), generator=random, device="cuda")
        target = ((rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2 < 400).long()
        noise = torch.randn(8, 1, 128, 128, generator=random, device="cuda")
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            value = loss(network(target[:, None] + 0.5 * noise), target)
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, 12)
        scaler.step(optimizer)
        scaler.update()
        values.append(value.item())
    return values


def test_16_bit_trainings_end_where_fp32_ends():
    """120 steps: finite throughout, and the mean loss of the last ten within a twentieth of what was learnt."""
    losses = {dtype: torch.tensor(_train(dtype)) for dtype in DTYPES}
    assert all(values.isfinite().all() for values in losses.values())
    exact = losses[torch.float32]
    learnt, end = exact[0] - exact[-10:].mean(), exact[-10:].mean()
    assert learnt > 0.5
    for dtype in DTYPES[1:]:
        assert abs(losses[dtype][-10:].mean() - end) <= learnt / 20, dtype


def test_a_compiled_network_has_the_gradients_of_an_eager_one():
    torch.manual_seed(0)
    network = VMUNet.from_preset("small", 1, 2, drop_path_rate=0.0).cuda().train()
    x = torch.randn(2, 1, 64, 64, device="cuda")
    gradients = []
    for run in (network, torch.compile(network, fullgraph=True)):
        network.zero_grad(set_to_none=True)
        run(x).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert (gradients[0] - gradients[1]).norm() <= 1e-3 * gradients[0].norm()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("distance", ["mse", "kl"])
def test_the_terms_of_3d_maps_have_the_same_bits_twice_and_the_values_of_fp64(distance, dtype, recwarn):
    """Sizes that halve, and others; the suite lets torch warn of every operator without a deterministic kernel."""
    encoder, decoder = [(24, 32, 20), (12, 16, 10), (5, 8, 5)], [(24, 32, 20), (12, 16, 10)]
    channels = [8, 16, 24]
    distillation = DualSelfDistillation(channels, channels[:2], distance=distance, dims=3)
    maps = [
        [torch.randn(2, c, *s).to(dtype) for c, s in zip(channels, side, strict=False)] for side in (encoder, decoder)
    ]

    def gradients(module: torch.nn.Module, sides: list[list[torch.Tensor]]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        sides = [[m.detach().requires_grad_() for m in side] for side in sides]
        with torch.autocast("cuda", dtype, enabled=sides[0][0].dtype not in (torch.float32, torch.float64)):
            values = torch.stack([*module(*sides).values()])
        students = [*sides[0], *sides[1][1:], *module.parameters()]
        return values, torch.autograd.grad(1000 * values.sum(), students)

    exact, wanted = gradients(distillation.double(), [[m.double() for m in side] for side in maps])
    distillation.float().cuda()
    (values, got), (again, got_again) = (
        gradients(distillation, [[m.cuda() for m in side] for side in maps]) for _ in "12"
    )
    assert torch.equal(values, again) and all(torch.equal(a, b) for a, b in zip(got, got_again, strict=True))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2  # maps of fp16 are projected in bf16 too
    assert (values.cpu() - exact).norm() <= tolerance * exact.norm()
    for ours, right in zip(got, wanted, strict=True):
        assert (ours.cpu().double() - right).norm() <= tolerance * right.norm()
    assert not [str(w.message) for w in recwarn if "does not have a deterministic implementation" in str(w.message)]


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_compiled_terms_have_the_values_and_the_accumulated_gradients_of_eager_ones(masked, monkeypatch):
    """Of several steps, each with two calls and own maps: CUDA graphs of torch's would take the first's memory."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    sizes, channels = [(16, 12, 20), (8, 6, 10), (4, 3, 5)], [8, 16, 24]
    eager = DualSelfDistillation(channels, channels, dims=3).cuda()
    compiled = compiled_terms(copy.deepcopy(eager))
    random = torch.Generator("cuda").manual_seed(1)
    for _ in range(5):
        values: dict[str, list[torch.Tensor]] = {"eager": [], "compiled": []}
        for module in (eager, compiled):
            module.zero_grad(set_to_none=True)
        for _ in range(2):
            encoder, decoder = (
                [torch.randn(2, c, *s, device="cuda", generator=random) for c, s in zip(channels, sizes, strict=True)]
                for _ in range(2)
            )
            mask = (torch.rand(2, 1, 32, 24, 40, device="cuda", generator=random) < 0.7).float() if masked else None
            for name, module in (("eager", eager), ("compiled", compiled)):
                maps = [m.clone().requires_grad_() for m in (*encoder, *decoder)]
                loss = sum(module(maps[:3], maps[3:], mask).values())
                loss.backward()
                values[name] += [loss.detach().clone(), *(m.grad.clone() for m in maps if m.grad is not None)]
        gradients = [[p.grad for p in module.parameters()] for module in (eager, compiled)]
        for a, b in zip([*values["eager"], *gradients[0]], [*values["compiled"], *gradients[1]], strict=True):
            assert (a - b).norm() <= 1e-5 * a.norm()


def test_a_distilled_training_in_3d_is_compiled_and_in_half_precision(tmp_path):
    """nnU-Net's recipe on a GPU: inductor, float16 with a gradient scaler; through the trap of code compiled before."""
    dataset = TinyDataset(tmp_path)
    write_raw_dataset(dataset)
    with dataset.here(nnUNet_compile="t"), without_pictures():
        plan_and_preprocess_here(dataset, CONFIGURATIONS)
        for trainer_class in (ShortNnUNet, ShortDistilled):
            plans = {**dataset.load_plans(), "continue_training": False}
            trainer = trainer_class(plans, UNET_3D, 0, dataset.load_dataset_json(), torch.device("cuda"))
            trainer.run_training()
            trainer.perform_actual_validation()
    assert isinstance(trainer.network, torch._dynamo.OptimizedModule) and trainer.grad_scaler is not None
    assert isinstance(trainer.loss.distillation, torch._dynamo.OptimizedModule)
    assert all(loss > 0 for loss in trainer.losses) and len(trainer.losses) == 6
    assert all(value > 0 for value in checkpoint_of(trainer)["logging"]["L_proj"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("network", U_MAMBAS, ids=lambda c: c.__name__)
def test_u_mamba_trains_in_16_bit_as_in_fp32(network, dtype):
    """Where the official code's loss was reported to become NaN."""
    losses = []
    for computed in (dtype, torch.float32):
        torch.manual_seed(1)
        losses.append(losses_of(u_mamba(network, 2).cuda(), computed, size=32))
    check_goes_as_in_fp32(*losses)


def test_no_recording_goes_backward_through_indices_that_nothing_has_written():
    """Max pooling of volumes adds its gradient where the kept index says; a recorded forward has not run yet."""
    strides = [[1, 1, 1], [2, 2, 2]]
    network = LightMUNet(1, 2, strides=strides, channels=8, encoder_blocks=[1, 1], decoder_blocks=[1]).cuda().train()
    network.cuda_graphs.training = True
    image = torch.randn(2, 1, 32, 32, 32, device="cuda")
    for _ in range(4):
        used = torch.full((1 << 29,), 1 << 40, device="cuda")  # 4 GiB that the recording is given next
        del used
        network(image).square().mean().backward()
        torch.cuda.synchronize()
    assert len(network.cuda_graphs.graphs) == 1


def _logits_of_steps(network: torch.nn.Module, dtype: torch.dtype) -> list[torch.Tensor]:
    """In training, one step of SGD after the other, the last two of them through CUDA graphs where there are any."""
    device = next(network.parameters()).device
    random = torch.Generator().manual_seed(1)
    image = torch.randn(2, 1, 64, 64, generator=random).to(device)
    target = torch.randint(2, (2, 64, 64), generator=random).to(device)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    steps = []
    for _ in range(CALLS_BEFORE + 2):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = network(image)
        F.cross_entropy(logits.float(), target).backward()
        optimizer.step()
        steps.append(logits.detach().float().cpu())
    return steps


@pytest.mark.parametrize("name", RELATIVES)
def test_every_relative_trains_with_cuda_graphs(name):
    """In bf16, or in fp32 if that is its recipe: its logits are those of a training in fp32 on the CPU, in each step.

    To a tenth: on a CPU too bf16's roundings add up to 7 % in the tiny U-Mamba Enc.
    """
    torch.manual_seed(0)
    network = RELATIVES[name].network(1, 2, **TINY[name]).train()
    for module in network.modules():
        if isinstance(module, DropPath):
            module.probability = 0.0
    exact = copy.deepcopy(network)
    for module in exact.modules():
        if isinstance(module, DirectionalScan):
            module.scan_backend = "torch_chunked"
    network.cuda().cuda_graphs.training = True
    dtype = torch.float32 if RELATIVES[name].recipe.precision == "fp32" else torch.bfloat16
    got, expected = _logits_of_steps(network, dtype), _logits_of_steps(exact, torch.float32)
    assert network.cuda_graphs.graphs
    compare(name, [f"step {i}" for i in range(len(got))], got, expected, 2 * AUTOCAST_TOLERANCE[torch.bfloat16])
