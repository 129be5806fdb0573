"""Additions for small structures and a scan left out: what they add or take, and that without them nothing changes."""

from math import prod

import pytest
import torch

from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.architecture.vm_unet import PRESETS
from nnunetv2_dsvm.architecture.vm_unet_sizes import VMUNetSizes

VOLUMES = [[1, 1, 1], [2, 4, 4], [1, 2, 2]]
SIZES = {"dims": (16, 32), "encoder_depths": (1, 1), "decoder_depths": (1, 1), "d_state": 2, "drop_path_rate": 0.0}
pytestmark = pytest.mark.usefixtures("one_thread")


def build(strides=None, **additions):
    torch.manual_seed(0)
    return VMUNet(2, 3, **SIZES, strides=strides, **additions).eval()


def parameters(network) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("strides", [None, VOLUMES], ids=["images", "volumes"])
def test_parameters_by_hand(strides):
    kernel, patch = (9, 16) if strides is None else (27, 32)
    plain = parameters(build(strides))
    first, second = 2 * 8 * kernel + 8 + 2 * 8, 8 * 16 * kernel + 16 + 2 * 16  # weights, bias, norm
    projection = 2 * 16 * patch + 16 + 2 * 16
    assert parameters(build(strides, stem="convolutions")) == plain - projection + first + second
    # The head has 24 channels in the place of 16 / 4.
    of_image, of_both = 2 * 24 * kernel + 24 + 2 * 24, (4 + 24) * 24 * kernel + 24 + 2 * 24
    assert parameters(build(strides, full_resolution_channels=24)) == plain + of_image + of_both + (24 - 4) * 3

    def stage(before, width):  # two convolutions and their norms
        return before * width * kernel + width * width * kernel + 2 * 3 * width

    # Of 6 and 12 channels; tokens by a convolution; the last expanding in two steps, the volume's first one of 2×2×2.
    steps = (4, 4) if strides is None else (8, 4)
    down = stage(2, 6) + stage(6, 12) + 12 * 16 * kernel + 16 + 2 * 16
    up = 16 * steps[0] * 12 + 2 * 12 + stage(24, 12) + 12 * steps[1] * 6 + 2 * 6 + stage(12, 6)
    last = 16 * patch * 4 + 2 * 4
    assert parameters(build(strides, fine_channels=6)) == plain - projection - last + down + up + (6 - 4) * 3


@pytest.mark.parametrize("strides", [None, VOLUMES], ids=["images", "volumes"])
def test_parameters_without_scan_by_hand(strides):
    kernel, patch, merged = (9, 16, 4) if strides is None else (27, 32, 4)

    def block(dim):
        inner = 2 * dim
        norms = 2 * dim + 2 * inner
        return norms + dim * 2 * inner + inner * kernel + inner + inner * dim

    blocks = 2 * (block(16) + block(32))  # one in each of two stages, down and up
    embedding, merging = 2 * 16 * patch + 16 + 2 * 16, 2 * merged * 16 + merged * 16 * 32
    expanding, last = 32 * merged * 16 + 2 * 16, 16 * patch * 4 + 2 * 4
    assert parameters(build(strides, scan=False)) == blocks + embedding + merging + expanding + last + 4 * 3 + 3
    # What is missing: x_proj, dt_proj and its bias, A_log and D of each direction.
    directions, rank, n = (4 if strides is None else 6), 1, 2  # of 16 and 32 channels: 32/16 = 2 below
    missing = sum(
        2 * directions * 2 * dim * ((rank + 2 * n) + rank + 1 + n + 1) for dim, rank in ((16, rank), (32, 2 * rank))
    )
    assert parameters(build(strides)) - parameters(build(strides, scan=False)) == missing


def test_the_published_size_without_scan():
    with torch.device("meta"):
        assert parameters(VMUNet(3, 1, scan=False)) == 22_037_737


@pytest.mark.parametrize(
    ("strides", "stride", "expected"),
    [
        (None, 2, ((2, 2), (4, 4))),
        (None, 4, ((4, 4), (8, 8))),
        ([[1, 1, 1], [4, 4, 4], [2, 2, 2]], 2, ((2, 2, 2), (4, 4, 4))),
        ([[1, 1, 1], [2, 4, 4], [1, 2, 2]], 2, ((1, 2, 2), (1, 4, 4))),
        ([[1, 1, 1], [1, 4, 4], [2, 2, 2]], 2, ((1, 2, 2), (2, 4, 4))),
        ([[1, 1, 1], [1, 2, 2], [2, 2, 2]], 2, ((1, 2, 2), (2, 4, 4))),
        ([[1, 1, 1], [1, 2, 2], [2, 2, 2]], 4, ((2, 4, 4), (4, 8, 8))),
    ],
    ids=str,
)
def test_a_patch_embedding_of_another_stride_keeps_all_but_the_ends(strides, stride, expected):
    network = build(strides)
    sizes = network.sizes.with_patch_embedding_stride(stride)
    assert sizes.stage_strides == expected and sizes.strides[2:] == network.sizes.strides[2:]
    other = VMUNet(2, 3, **sizes)
    shapes = [{name: tuple(t.shape) for name, t in net.state_dict().items()} for net in (network, other)]
    same = expected[0] == network.sizes.strides[1]
    ends = {"encoder.patch_embedding.projection.weight", "decoder.final_expanding.expand.weight"}
    assert {name for name in shapes[0] if shapes[0][name] != shapes[1][name]} == (set() if same else ends)
    assert shapes[1]["decoder.final_expanding.expand.weight"] == (4 * prod(expected[0]), 16)
    size = (19, 30) if strides is None else (3, 19, 30)
    assert other.eval()(torch.randn(1, 2, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize("stride", [1, 0, 2.0, True, "2", None], ids=repr)
def test_strides_of_no_patch_embedding_are_refused(stride):
    with pytest.raises(ValueError, match="patch_embedding_stride must be a whole number of at least 2"):
        PRESETS["base"].with_patch_embedding_stride(stride)
    assert PRESETS["base"].with_patch_embedding_stride(4) == VMUNetSizes()  # and says nothing of its strides in plans


@pytest.mark.parametrize(
    ("step", "convolutions"),
    [
        ((4, 4, 4), [(8, (2, 2, 2)), (16, (2, 2, 2))]),
        ((2, 4, 4), [(8, (1, 2, 2)), (16, (2, 2, 2))]),
        ((1, 4, 4), [(8, (1, 2, 2)), (16, (1, 2, 2))]),
        ((2, 2, 2), [(16, (2, 2, 2))]),
        ((1, 2, 2), [(16, (1, 2, 2))]),
    ],
    ids=str,
)
def test_a_stem_has_a_convolution_for_each_step_of_the_plan(step, convolutions):
    stem = build([[1, 1, 1], step, [2, 2, 2]], stem="convolutions").encoder.patch_embedding
    found = [step.convolution for step in stem.steps]
    assert [(c.out_channels, c.stride) for c in found] == convolutions
    assert all(c.kernel_size == (3, 3, 3) for c in found)


@pytest.mark.parametrize(
    "additions", [{"stem": "patches"}, {"full_resolution_channels": 0}, {"fine_channels": 0}, {"scan": True}], ids=str
)
def test_without_them_nothing_changes(additions):
    image = torch.randn(1, 2, 19, 30)
    plain, off = build(), build(**additions)
    assert dict(plain.sizes) == dict(off.sizes) and not set(additions) & set(plain.sizes)
    assert torch.equal(plain(image), off(image))


@pytest.mark.parametrize(
    ("step", "stages"),
    [
        ((4, 4, 4), [(6, (1, 1, 1)), (12, (2, 2, 2))]),
        ((2, 4, 4), [(6, (1, 1, 1)), (12, (1, 2, 2))]),
        ((1, 4, 4), [(6, (1, 1, 1)), (12, (1, 2, 2))]),
        ((2, 2, 2), [(6, (1, 1, 1))]),
        ((1, 2, 2), [(6, (1, 1, 1))]),
    ],
    ids=str,
)
def test_a_convolutional_stage_stands_at_each_resolution_finer_than_the_tokens(step, stages):
    network = build([[1, 1, 1], step, [2, 2, 2]], fine_channels=6)
    embedding, last = network.encoder.patch_embedding, network.decoder.final_expanding
    assert [(stage[0].conv.out_channels, stage[0].conv.stride) for stage in embedding.stages] == stages
    assert [stage[0].conv.in_channels for stage in last.stages] == [2 * width for width, _ in reversed(stages)]
    taken = []
    for stage in last.stages:
        stage.register_forward_pre_hook(lambda _, given: taken.append(given[0]))
    image = torch.randn(1, 2, 8, 16, 24)
    with torch.no_grad():
        tokens, outputs = embedding(image)
        assert tokens.shape == (1, *(n // s for n, s in zip((8, 16, 24), step, strict=True)), 16)
        assert network(image).shape == (1, 3, 8, 16, 24)
    for given, skip in zip(taken, reversed(outputs), strict=True):  # each skip is as large as what it is joined to
        torch.testing.assert_close(given[:, skip.shape[1] :], skip)


def test_plans_hold_them_and_a_network_shares_what_is_not_theirs():
    network = build(VOLUMES, stem="convolutions", full_resolution_channels=8)
    assert {"stem": "convolutions", "full_resolution_channels": 8}.items() <= dict(network.sizes).items()
    assert VMUNet(2, 3, **network.sizes).sizes == network.sizes
    missing, unexpected = network.load_state_dict(build(VOLUMES).state_dict() | network.state_dict(), strict=False)
    added = ("encoder.patch_embedding.", "decoder.full_resolution.")
    assert not missing and all(key.startswith(added) for key in unexpected)


def test_a_single_bright_pixel_is_seen_at_full_resolution():
    """Its neighbours within a patch, which a projection of the patch treats alike, get other values."""
    image = torch.zeros(1, 2, 16, 16)
    image[..., 5, 6] = 10
    network = build(full_resolution_channels=8)
    with torch.no_grad():
        network.decoder.full_resolution.of_both.convolution.weight[:, :4] = 0  # of the last expanding
        changed = (network(image) - network(0 * image))[0].abs().amax(0).nonzero()
    assert changed.amin(0).tolist() == [3, 4] and changed.amax(0).tolist() == [7, 8]  # two convolutions of 3 reach 2


@pytest.mark.parametrize("additions", [{"full_resolution_channels": 8}, {"fine_channels": 8}], ids=str)
def test_the_first_skip_is_used(additions):
    network = build(**additions).double()
    image = torch.randn(1, 2, 16, 16, dtype=torch.float64)
    taken = {}
    network.encoder.patch_embedding.register_forward_hook(lambda *a: taken.update(skip=a[-1]))
    network.decoder.stages[-1].register_forward_hook(lambda *a: taken.update(deep=a[-1]))
    network.decoder.final_expanding.register_forward_pre_hook(lambda _, given: taken.update(given=given[0]))
    network(image)
    skip = taken["skip"] if isinstance(taken["skip"], torch.Tensor) else taken["skip"][0]
    torch.testing.assert_close(taken["given"], taken["deep"] + skip)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stem": "conv"}, "'patches' or 'convolutions', got 'conv'"),
        ({"stem": "convolutions", "strides": [[1, 1], [8, 8], [2, 2]]}, r"cannot lower a size by \(8, 8\)"),
        ({"full_resolution_channels": -1}, "a whole number from 0 to 4096, got -1"),
        ({"fine_channels": 2.0}, "fine_channels must be a whole number from 0 to 4096, got 2.0"),
        (
            {"fine_channels": 8, "strides": [[1, 1], [3, 3], [2, 2]]},
            r"fine_channels .* cannot lower a size by \(3, 3\)",
        ),
        ({"fine_channels": 8, "full_resolution_channels": 8}, "leave out full_resolution_channels 8$"),
        ({"scan": "no"}, "scan must be True or False, got 'no'"),
    ],
    ids=["name", "step", "channels", "fine channels", "fine step", "both", "scan"],
)
def test_additions_that_cannot_be_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        build(**given)
