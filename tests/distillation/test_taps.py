"""Taps on any network: what they hand out, that they leave everything else alone, and that they last no longer."""

import copy
import pickle
import shutil
import weakref

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet, ResidualUNet
from helpers.examples_in_docstrings import run_example
from helpers.pages import DOCUMENTATION, blocks
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from nnunetv2_dsvm.distillation import DualSelfDistillation, FeaturesOutput, FeatureTaps, describe_stages, unet_stages

pytestmark = pytest.mark.usefixtures("one_thread")


def unet(kind=PlainConvUNet, dims=2, strides=(1, 2, 2), deep_supervision=True):
    """One of nnU-Net's own networks, small, with nnU-Net's activations in place."""
    n = len(strides)
    convolution, norm = (nn.Conv2d, nn.InstanceNorm2d) if dims == 2 else (nn.Conv3d, nn.InstanceNorm3d)
    return kind(
        1,
        n,
        [4 * (i + 1) for i in range(n)],
        convolution,
        3,
        strides,
        [1] * n,
        2,
        [1] * (n - 1),
        conv_bias=True,
        norm_op=norm,
        norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=deep_supervision,
    ).train()


class Tiny(nn.Module):
    """Down, down, up; `down` may be checkpointed, and the network may fail after it."""

    def __init__(self):
        super().__init__()
        self.stem, self.down = nn.Conv2d(1, 4, 3, 2, 1), nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8))
        self.up, self.head = nn.ConvTranspose2d(8, 4, 2, 2), nn.ConvTranspose2d(4, 2, 2, 2)
        self.checkpointed = self.fails = False

    def forward(self, x):
        x = self.stem(x)
        x = checkpoint(self.down, x, use_reentrant=False) if self.checkpointed else self.down(x)
        if self.fails:
            raise MemoryError
        return self.head(self.up(x))


TINY = (["stem", "down.1"], ["up"])
IMAGE = (2, 1, 16, 16)


def gradient(network, call, image):
    """Of a loss over logits and features, as one vector, which weighs gradients of rounding size by their size."""
    network.zero_grad()
    output = call(image)
    features = output[1] + output[2]
    sum(t.square().mean() for t in [*output.logits, *features]).backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", [PlainConvUNet, ResidualEncoderUNet, ResidualUNet])
def test_features_are_what_the_stages_return(kind, dims):
    network, image = unet(kind, dims), torch.randn(2, 1, *[16] * dims)
    plain, keys = network(image), list(network.state_dict())
    stages = describe_stages(network, *unet_stages(network), image[:1])
    assert [s.channels for s in stages[0]] == network.encoder.output_channels == [4, 8, 12]
    assert [s.stride for s in stages[0]] == [(1,) * dims, (2,) * dims, (4,) * dims]
    assert [(s.channels, s.stride) for s in stages[1]] == [(s.channels, s.stride) for s in stages[0][:-1]]
    taps = FeatureTaps(network, *unet_stages(network))
    output = network(image)
    assert isinstance(output, FeaturesOutput) and isinstance(output.logits, list)
    torch.testing.assert_close(output.logits, plain, rtol=0, atol=0)
    torch.testing.assert_close(list(output.encoder_features), network.encoder(image), rtol=0, atol=0)
    # The head of the finest stage sees the decoder's last features.
    torch.testing.assert_close(network.decoder.seg_layers[-1](output.decoder_features[0]), output.logits[0])
    network.decoder.deep_supervision = False
    assert isinstance(network(image).logits, torch.Tensor)
    assert list(network.state_dict()) == keys
    assert isinstance(network.eval()(image), torch.Tensor)
    taps.remove()
    assert isinstance(network.train()(image), torch.Tensor)


@pytest.mark.parametrize(
    ("backend", "build", "names"),
    [
        ("eager", unet, unet_stages),
        pytest.param(
            *("inductor", lambda: Tiny().train(), lambda _: TINY),
            marks=[pytest.mark.slow, pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")],
        ),
    ],
    ids=["eager", "inductor"],
)
def test_a_compiled_network_has_the_same_gradients(backend, build, names):
    network, image = build(), torch.randn(*IMAGE)
    compiled = torch.compile(network, backend=backend)
    FeatureTaps(compiled, *names(network))
    expected = gradient(network, network, image)
    for _ in range(2):
        assert (gradient(network, compiled, image) - expected).norm() <= 1e-5 * expected.norm()
    assert not isinstance(compiled.eval()(image), FeaturesOutput)


def test_taps_break_no_graph():
    network, image = unet(), torch.randn(*IMAGE)
    explain = torch._dynamo.explain
    without = explain(network)(image)
    FeatureTaps(network, *unet_stages(network))
    tapped = explain(network)(image)
    assert (tapped.graph_count, tapped.graph_break_count) == (without.graph_count, without.graph_break_count) == (1, 0)


class TestCompiledBefore:
    """torch.compile shares the code of a class and does not look at hooks."""

    def compiled(self, tapped):
        network = torch.compile(Tiny().train(), backend="eager")
        return network, FeatureTaps(network, *TINY) if tapped else None

    def test_taps_on_a_network_that_ran_or_beside_another_with_taps(self):
        image = torch.randn(*IMAGE)
        first, _ = self.compiled(tapped=False)
        first(image)
        FeatureTaps(first, *TINY)
        second, _ = self.compiled(tapped=True)
        for network in (first, second, first):
            expected = network._orig_mod.stem(image)
            torch.testing.assert_close(network(image).encoder_features[0], expected)

    def test_code_of_a_network_without_taps_is_not_taken_in_silence(self):
        image = torch.randn(*IMAGE)
        tapped, _ = self.compiled(tapped=True)
        self.compiled(tapped=False)[0](image)
        with pytest.raises(RuntimeError, match="the taps on stem, .* another Tiny, without taps"):
            tapped(image)

    @torch._dynamo.config.patch(skip_nnmodule_hook_guards=False)
    def test_unless_torch_is_told_to_look_at_hooks(self):
        image = torch.randn(*IMAGE)
        tapped, _ = self.compiled(tapped=True)
        other, _ = self.compiled(tapped=False)
        outputs = [type(network(image)) for network in (other, tapped, other, tapped)]
        assert outputs == [torch.Tensor, FeaturesOutput] * 2


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("backend", [None, "eager"])
def test_no_feature_outlives_its_step(backend, checkpointed):
    network = Tiny().train()
    network.checkpointed = checkpointed
    FeatureTaps(network, *TINY)
    call = network if backend is None else torch.compile(network, backend=backend)
    for _ in range(2):
        output = call(torch.randn(*IMAGE))
        features = [weakref.ref(f) for f in (*output.encoder_features, *output.decoder_features)]
        output.logits.square().mean().backward()
        assert all(f() is not None for f in features)
        del output
        assert all(f() is None for f in features)


def test_a_step_that_failed_leaves_nothing_to_the_next():
    network = Tiny().train()
    FeatureTaps(network, *TINY)
    network.fails = True
    with pytest.raises(MemoryError):
        network(torch.randn(*IMAGE))
    network.fails = False
    image = torch.randn(*IMAGE)
    torch.testing.assert_close(network(image).encoder_features[0], network.stem(image))
    network.fails = True
    with pytest.raises(MemoryError):
        network(image)
    network.fails = False
    assert isinstance(network.eval()(image), torch.Tensor)


def test_copies_have_taps_of_their_own():
    network, image = Tiny().train(), torch.randn(*IMAGE)
    FeatureTaps(network, *TINY)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        nn.init.zeros_(other.stem.weight)
        assert not torch.equal(other(image).encoder_features[0], network(image).encoder_features[0])
        assert isinstance(other.eval()(image), torch.Tensor) and isinstance(network(image), FeaturesOutput)
    replica = copy.copy(network)  # as DataParallel makes them
    with pytest.raises(RuntimeError, match="DataParallel"):
        replica(image)
    with pytest.raises(RuntimeError, match="has taps already"):
        FeatureTaps(network, *TINY)


def test_exported_and_traced_as_without():
    network, image = Tiny().eval(), torch.randn(*IMAGE)
    without = torch.export.export(network, (image,)).graph
    taps = FeatureTaps(network, *TINY)
    program = torch.export.export(network, (image,))
    assert str(program.graph) == str(without)
    torch.testing.assert_close(torch.jit.trace(network, image)(image), network(image))
    taps.remove()
    torch.testing.assert_close(torch.jit.script(network.down)(network.stem(image)), network.down(network.stem(image)))


@pytest.mark.parametrize("compiled", [False, True])
def test_ddp(compiled):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        network, image = unet(), torch.randn(*IMAGE)
        FeatureTaps(network, *unet_stages(network))
        expected = gradient(network, network, image)
        other = copy.deepcopy(network)
        wrapped = DistributedDataParallel(torch.compile(other, backend="eager") if compiled else other)
        torch.testing.assert_close(gradient(other, wrapped, image), expected)
    finally:
        dist.destroy_process_group()


class Odd(nn.Module):
    """Modules that can be no stages."""

    def __init__(self):
        super().__init__()
        self.stem, self.in_place = nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(inplace=True)
        self.twice, self.never = nn.Conv2d(4, 4, 3, padding=1), nn.Identity()
        self.flat, self.pyramid, self.down = nn.Flatten(), Pyramid(), nn.Conv2d(4, 8, 3, 2, 1)
        self.dropped, self.dropout = nn.Conv2d(4, 4, 1), nn.Dropout2d(inplace=True)

    def forward(self, x):
        x = self.twice(self.twice(self.in_place(self.stem(x))))
        self.flat(self.dropout(self.dropped(x)))
        return self.pyramid(self.down(x))[0]


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


class Pyramid(nn.Module):
    def forward(self, x):
        return [x, x[:, :0], nn.functional.avg_pool2d(x, 2)]


@pytest.mark.parametrize(
    ("encoder", "decoder", "message"),
    [
        (["stam"], ["down"], r"Odd has no module 'stam' \(alike: stem\)"),
        (["twice"], ["down"], "'twice' runs 2 times"),
        (["down"], ["never"], "'never' does not run"),
        (["flat"], ["down"], r"'flat' returns a tensor \(1, 256\), no feature map \(B, C, H, W\)"),
        (["pyramid"], ["down"], r"'pyramid' returns 3 outputs: name one, 'pyramid\[0\]' to 'pyramid\[2\]'"),
        (["pyramid[3]"], ["down"], r"'pyramid\[3\]' is not there: the module returns 3"),
        (["pyramid[1]"], ["down"], r"'pyramid' returns a tensor \(1, 0, 4, 4\), no feature map"),
        (["down[0]"], ["in_place"], r"'down' returns a tensor \(1, 8, 4, 4\), no list: name it without \[0\]"),
        (["down"], ["pyramid[2]", "in_place"], r"'pyramid\[2\]' of 2×2 comes before 'in_place' of 8×8"),
        (["stem"], ["down"], "'stem' returns is changed in place later"),
        (["dropped"], ["down"], "'dropped' returns is changed in place later"),
        (["down"], ["down"], "down named twice"),
    ],
    ids=[
        "missing",
        "twice",
        "never",
        "flat",
        "list",
        "beyond",
        "no channels",
        "no list",
        "order",
        "in place",
        "in place in training",
        "named twice",
    ],
)
def test_what_can_be_no_stage_is_named(encoder, decoder, message):
    with pytest.raises(ValueError, match=message):
        describe_stages(Odd(), encoder, decoder, torch.zeros(1, 1, 16, 16))


def test_elements_of_lists_are_stages():
    network, image = Odd().train(), torch.randn(1, 1, 16, 16)
    names = ["pyramid[0]", "pyramid[-1]"], ["in_place"]
    encoder, decoder = describe_stages(network, *names, image)
    assert [(s.module, s.channels, s.stride) for s in (*encoder, *decoder)] == [
        ("pyramid[0]", 8, (4, 4)),
        ("pyramid[-1]", 8, (8, 8)),
        ("in_place", 4, (2, 2)),
    ]
    FeatureTaps(network, *names)
    output = network(image)
    assert [tuple(f.shape[1:]) for f in output.encoder_features] == [(8, 4, 4), (8, 2, 2)]
    torch.testing.assert_close(output.encoder_features[0], output.logits)


def test_a_module_that_runs_twice_in_training_only():
    network = Odd().train()
    FeatureTaps(network, ["twice"], ["down"])
    with pytest.raises(RuntimeError, match="'twice' ran twice"):
        network(torch.zeros(1, 1, 16, 16))


def test_a_dry_run_leaves_the_network_as_it_was():
    network = Tiny().double().train()
    network.down.append(Noise())
    network.stem.eval()  # frozen, say
    network(torch.randn(*IMAGE, dtype=torch.float64)).sum().backward()
    before = {k: v.clone() for k, v in network.state_dict().items()}, [p.grad.clone() for p in network.parameters()]
    modes, random = [m.training for m in network.modules()], torch.get_rng_state()
    describe_stages(torch.compile(network, backend="eager"), *TINY, torch.ones(1, 1, 16, 16))
    torch.testing.assert_close(network.state_dict(), before[0], rtol=0, atol=0)
    torch.testing.assert_close([p.grad for p in network.parameters()], before[1], rtol=0, atol=0)
    assert [m.training for m in network.modules()] == modes and not network.stem.training and network.down.training
    assert torch.equal(torch.get_rng_state(), random)
    assert isinstance(network(torch.randn(*IMAGE, dtype=torch.float64)), torch.Tensor)


@pytest.mark.parametrize(
    ("strides", "first"),
    [
        ([1, 2, 2, 2, 2, 2, 2], 2),  # 3d_fullres of large images, 2D
        ([1, 2, 2, 2], 1),  # 2D, a patch of 56×40: else one stage in the decoder
        ([[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2]], 2),  # anisotropic: 1/4 in the plane
        ([[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2], [1, 2, 2]], 2),
        ([1, 1, 2, 2, 2, 2], 3),
        ([1, 2, 2], 0),
        ([1, 2], 0),
        ([1], 0),
    ],
    ids=str,
)
def test_the_stages_of_nnu_nets_networks_by_their_strides(strides, first):
    dims = len(strides[-1]) if isinstance(strides[-1], list) else 2
    n = len(strides)
    encoder, decoder = unet_stages(unet(ResidualEncoderUNet, dims, strides))
    assert encoder == [f"encoder.stages.{i}" for i in range(first, n)]
    assert decoder == [f"decoder.stages.{n - 2 - i}" for i in range(first, n - 1)]
    assert len(encoder) == len(decoder) + 1
    assert unet_stages(torch.compile(unet(strides=strides, dims=dims)), from_stride=1)[0][0] == "encoder.stages.0"


def test_other_networks_stages_must_be_named():
    with pytest.raises(ValueError, match="Tiny is not built like nnU-Net's"):
        unet_stages(Tiny())


def test_the_page_s_loop_trains():
    run_example(FeatureTaps)
    (code,) = (block.code for block in blocks(DOCUMENTATION / "distil.md") if block.language == "python")
    network = Tiny()
    batches = [(torch.randn(2, 1, 64, 64), torch.randint(2, (2, 64, 64))) for _ in range(4)]
    names = {"network": network, "encoder": TINY[0], "decoder": TINY[1], "batches": batches}
    before = [p.clone() for p in network.parameters()]
    exec(code, names)
    assert isinstance(names["distillation"], DualSelfDistillation) and names["loss"].isfinite()
    trained = [*network.parameters(), *names["distillation"].parameters()]
    assert all(p.grad is not None for p in trained)
    assert not any(torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True))
    assert network.eval()(batches[0][0]).shape == (2, 2, 64, 64)
