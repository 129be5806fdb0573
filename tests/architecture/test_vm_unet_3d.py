"""VM-UNet of volumes: against a slow computation of its own, and beside the network of images."""

import itertools
from math import prod

import numpy as np
import pytest
import torch
from helpers.network_contract import NetworkContract
from torch import Tensor
from torch.nn.functional import gelu, pad, silu, softplus

from nnunetv2_dsvm import VMUNet
from nnunetv2_dsvm.architecture.vm_unet import PRESETS

# Another number along every axis, so that none can be mistaken for another.
STRIDES = ((1, 1, 1), (1, 2, 4), (2, 1, 2))
TINY = {"dims": (8, 16), "encoder_depths": (1, 2), "decoder_depths": (1, 1), "d_state": 2, "drop_path_rate": 0.0}
pytestmark = pytest.mark.usefixtures("one_thread")


class TestContract(NetworkContract):
    depth = (3,)
    test_golden_numbers = None  # nobody has published a network to compare with

    def build(self, input_channels=1, num_classes=2, **options):
        sizes = {"dims": (8, 16), "encoder_depths": (1, 1), "decoder_depths": (1, 1), "d_state": 2}
        strides = [[1, 1, 1], [2, 4, 4], [1, 2, 2]]
        return VMUNet(input_channels, num_classes, **sizes, drop_path_rate=0.0, strides=strides, **options)


class TestContractWithBothAdditions(TestContract):
    def build(self, input_channels=1, num_classes=2, **options):
        return super().build(input_channels, num_classes, stem="convolutions", full_resolution_channels=6, **options)


class Slow:
    """The network by its definition, with loops over offsets, directions and tokens; `w` are its parameters."""

    def __init__(self, w: dict[str, Tensor], strides: tuple[tuple[int, ...], ...]) -> None:
        self.w, self.strides = w, strides

    def norm(self, x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)
        return centred / (variance + 1e-5).sqrt() * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def convolution(self, x: Tensor, name: str, step: tuple[int, ...]) -> Tensor:
        """3×3×3 of channels last, padded by one; depthwise where the weight has one input channel of many."""
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        sizes = [-(-size // s) for size, s in zip(x.shape[1:4], step, strict=True)]
        x = pad(x, (0, 0, 1, 1, 1, 1, 1, 1))
        total = bias.expand(x.shape[0], *sizes, len(bias))
        for i, j, k in itertools.product(range(3), repeat=3):
            seen = x[:, i :: step[0], j :: step[1], k :: step[2]][:, : sizes[0], : sizes[1], : sizes[2]]
            of_offset = weight[:, :, i, j, k]
            depthwise = of_offset.shape[1] == 1 and seen.shape[-1] > 1
            total = total + (seen * of_offset[:, 0] if depthwise else seen @ of_offset.T)
        return total

    def embedding(self, image: Tensor) -> Tensor:
        name, (p, q, r) = "encoder.patch_embedding", self.strides[1]
        if f"{name}.projection.weight" not in self.w:  # STRIDES[1] is (1, 2, 4): halved as (1, 1, 2), then (1, 2, 2)
            x = self.convolution(image, f"{name}.steps.0.convolution", (1, 1, 2))
            x = gelu(self.norm(x, f"{name}.steps.0.norm"))
            x = self.convolution(x, f"{name}.steps.1.convolution", (1, 2, 2))
            return self.norm(x, f"{name}.steps.1.norm")
        x = self.w[f"{name}.projection.bias"]
        for i, j, k in itertools.product(range(p), range(q), range(r)):
            x = x + image[:, i::p, j::q, k::r] @ self.w[f"{name}.projection.weight"][:, :, i, j, k].T
        return self.norm(x, f"{name}.norm")

    def block(self, x: Tensor, name: str) -> Tensor:
        has_scan = f"{name}.ss2d.A_log" in self.w
        of_x = f"{name}.ss2d" if has_scan else f"{name}.gated_convolution"
        inner, z = (self.norm(x, f"{name}.norm") @ self.w[f"{of_x}.in_proj.weight"].T).chunk(2, dim=-1)
        y = inner = silu(self.convolution(inner, f"{of_x}.conv", (1, 1, 1)))
        if has_scan:
            y = sum(self.scan(inner, of_x, k) for k in range(6))
        return x + (self.norm(y, f"{of_x}.out_norm") * silu(z)) @ self.w[f"{of_x}.out_proj.weight"].T

    def scan(self, x: Tensor, name: str, k: int) -> Tensor:
        fastest = 2 - k % 3
        order = [0, *(1 + axis for axis in range(3) if axis != fastest), 1 + fastest, 4]
        grid = x.permute(order)
        tokens = grid.flatten(1, 3)
        if k >= 3:
            tokens = tokens.flip(1)
        of_direction = (self.w[f"{name}.{p}"][k] for p in ("x_proj", "dt_proj", "dt_bias", "A_log", "D"))
        x_proj, dt_proj, dt_bias, A_log, D = of_direction
        rank, n = dt_proj.shape[1], A_log.shape[1]
        low_rank, B, C = (tokens @ x_proj.T).split([rank, n, n], dim=-1)
        dt = softplus(low_rank @ dt_proj.T + dt_bias)
        state, ys = 0, []
        for t in range(tokens.shape[1]):
            decay = torch.exp(dt[:, t, :, None] * -A_log.exp())
            state = decay * state + (dt[:, t] * tokens[:, t])[..., None] * B[:, t, None]
            ys.append((state * C[:, t, None]).sum(-1) + D * tokens[:, t])
        y = torch.stack(ys, 1)
        if k >= 3:
            y = y.flip(1)
        return y.view(grid.shape).permute([order.index(axis) for axis in range(5)])

    def stage(self, x: Tensor, name: str) -> Tensor:
        blocks = {key.removeprefix(f"{name}.blocks.").split(".")[0] for key in self.w if key.startswith(f"{name}.b")}
        for block in sorted(blocks):
            x = self.block(x, f"{name}.blocks.{block}")
        return x

    def merging(self, x: Tensor, index: int) -> Tensor:
        name, (p, q, r) = f"encoder.mergings.{index}", self.strides[2 + index]
        neighbours = [x[:, i::p, j::q, k::r] for k, j, i in itertools.product(range(r), range(q), range(p))]
        return self.norm(torch.cat(neighbours, -1), f"{name}.norm") @ self.w[f"{name}.reduction.weight"].T

    def expanding(self, x: Tensor, name: str, step: tuple[int, ...]) -> Tensor:
        (p, q, r), x = step, x @ self.w[f"{name}.expand.weight"].T
        parts = x.chunk(prod(step), dim=-1)
        out = x.new_empty(x.shape[0], x.shape[1] * p, x.shape[2] * q, x.shape[3] * r, parts[0].shape[-1])
        for part, (i, j, k) in zip(parts, itertools.product(range(p), range(q), range(r)), strict=True):
            out[:, i::p, j::q, k::r] = part
        return self.norm(out, f"{name}.norm")

    def head(self, x: Tensor, index: int) -> Tensor:
        weight, bias = (self.w[f"decoder.seg_layers.{index}.{p}"] for p in ("weight", "bias"))
        return x @ weight.flatten(1).T + bias

    def __call__(self, image: Tensor) -> list[Tensor]:
        """Of sizes that need no padding: logits of full size and of stage 1, then each side's features."""
        image = image.movedim(1, -1)
        first = self.embedding(image)
        encoder = [self.stage(first, "encoder.stages.0")]
        second = self.merging(encoder[0], 0)
        encoder.append(self.stage(second, "encoder.stages.1"))
        deep = self.stage(encoder[1], "decoder.stages.0")
        x = self.stage(self.expanding(deep + second, "decoder.expandings.0", self.strides[2]), "decoder.stages.1")
        full = "decoder.full_resolution"
        if f"{full}.of_both.norm.weight" in self.w:
            last = self.expanding(x + first, "decoder.final_expanding", self.strides[1])
            of_image = gelu(self.norm(self.convolution(image, f"{full}.of_image.convolution", (1, 1, 1)),
                                      f"{full}.of_image.norm"))  # fmt: skip
            both = self.convolution(torch.cat([last, of_image], -1), f"{full}.of_both.convolution", (1, 1, 1))
            last = gelu(self.norm(both, f"{full}.of_both.norm"))
        else:
            last = self.expanding(x, "decoder.final_expanding", self.strides[1])
        results = [self.head(last, 0), self.head(x, 1), *encoder, x, deep]
        return [t.movedim(-1, 1) for t in results]


@pytest.mark.parametrize(
    "additions",
    [
        {},
        {"stem": "convolutions"},
        {"full_resolution_channels": 3},
        {"scan": False},
        {"stem": "convolutions", "full_resolution_channels": 3, "scan": False},
    ],
    ids=lambda given: "-".join(given) or "published",
)
def test_the_network_is_what_its_definition_says(additions):
    network = VMUNet(2, 3, **TINY, strides=STRIDES, deep_supervision=True, **additions).double().train()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    network.return_features = True
    image = torch.randn(2, 2, 4, 4, 16, dtype=torch.float64)
    names, parameters = zip(*network.named_parameters(), strict=True)
    slow = Slow(dict(zip(names, parameters, strict=True)), STRIDES)(image)
    output = network(image)
    got = [*output.logits, *output.encoder_features, *output.decoder_features]
    weighting = [torch.randn_like(t) for t in got]
    gradients = []
    for results in (got, slow):
        total = sum((t * w).sum() for t, w in zip(results, weighting, strict=True))
        gradients.append(dict(zip(names, torch.autograd.grad(total, parameters), strict=True)))
    torch.testing.assert_close(got, slow, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


def test_one_slice_gives_what_the_network_of_images_gives():
    """Where the strides leave the depth alone and the two directions along it are silent."""
    flat = ((1, 1), (2, 4), (2, 1))
    of_images = VMUNet(2, 3, **TINY, strides=flat).double()
    of_volumes = VMUNet(2, 3, **TINY, strides=[(1, *step) for step in flat]).double()
    weights = of_volumes.state_dict()
    for name, value in of_images.state_dict().items():
        if name.endswith((".x_proj", ".dt_proj", ".dt_bias", ".A_log", ".D")):
            weights[name][[0, 1, 3, 4]] = value
            if name.endswith(".D"):
                weights[name][[2, 5]] = 0
            elif name.endswith(".x_proj"):
                weights[name][[2, 5], -TINY["d_state"] :] = 0  # what reads the state
        elif value.ndim == 4:
            weights[name][:, :, weights[name].shape[2] // 2] = value  # beyond the middle is padding
        else:
            weights[name] = value
    of_volumes.load_state_dict(weights)
    image = torch.randn(2, 2, 7, 13, dtype=torch.float64)
    torch.testing.assert_close(of_volumes(image[:, :, None])[:, :, 0], of_images(image), rtol=1e-10, atol=1e-10)


def test_presets_take_strides_and_leave_out_the_deepest_stages():
    volumes = [[1, 1, 1], [1, 4, 4], [2, 2, 2], [1, 2, 2]]
    network = VMUNet.from_preset("large", 1, 3, strides=volumes)
    assert network.sizes == PRESETS["large"].with_strides(volumes)
    assert (network.sizes.dims, network.sizes.encoder_depths) == ((96, 192, 384), (2, 2, 9))
    assert network.sizes.decoder_depths == (9, 2, 2)
    assert network.stride == (2, 16, 16) and network.output_strides == ((1, 1, 1), (1, 4, 4), (2, 8, 8))
    assert VMUNet(1, 2, **PRESETS["small"]).stride == 32
    numpys = [list(np.array(step)) for step in volumes]  # as planners have them
    assert PRESETS["large"].with_strides(numpys) == network.sizes
    sizes = dict(network.sizes)
    assert sizes["strides"] == tuple(map(tuple, volumes)) and VMUNet(1, 3, **sizes).sizes == network.sizes


@pytest.mark.parametrize(
    ("strides", "message"),
    [
        ([[1, 1, 1], [4, 4, 4]], "each of the 2 stages"),
        ([[1], [4], [2]], "2 numbers for images or 3 for volumes"),
        ([[1, 1, 1], [4, 4], [2, 2, 2]], "2 numbers for images or 3 for volumes"),
        ([[1, 1, 1], [4, 4, 0], [2, 2, 2]], "whole numbers from 1 on"),
        ([[1, 1, 1], [4, 4, 2.0], [2, 2, 2]], "whole numbers from 1 on"),
        ([[1, 1, 2], [4, 4, 4], [2, 2, 2]], "begin with the image's own"),
        ([[1, 1, 1], [4, 4, 4], [1, 1, 1]], "larger than 1 along an axis"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_strides_that_make_no_network_are_refused(strides, message):
    with pytest.raises(ValueError, match=message):
        VMUNet(1, 2, **TINY, strides=strides)


@pytest.mark.parametrize("steps", [0, 5])
def test_strides_of_no_stage_and_of_more_than_a_preset_has_are_refused(steps):
    with pytest.raises(ValueError, match="an entry for the image and one for each"):
        VMUNet.from_preset("small", 1, 2, strides=[[1, 1, 1], *[[2, 2, 2]] * steps])


def test_other_images_than_volumes_are_refused():
    network = VMUNet(1, 2, **TINY, strides=STRIDES).eval()
    with pytest.raises(ValueError, match=r"\(batch, channels, depth, height, width\).*\(1, 1, 32, 32\)"):
        network(torch.randn(1, 1, 32, 32))
    image = torch.randn(1, 1, 4, 4, 8)
    image[0, 0, 1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="1 of 128 voxels, in channel 0"):
        network(image)


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_a_traced_network_refuses_other_sizes():
    network, image = VMUNet(1, 2, **TINY, strides=STRIDES).eval(), torch.randn(1, 1, 3, 5, 8)
    with torch.no_grad(), pytest.warns(UserWarning, match="images of 3x5x8 only"):
        traced = torch.jit.trace(network, image)
    with torch.no_grad():
        torch.testing.assert_close(traced(image), network(image))
    for size in ((4, 5, 8), (3, 6, 8), (3, 5, 9)):
        with pytest.raises(RuntimeError, match="split_with_sizes"):
            traced(torch.randn(1, 1, *size))
