"""Other networks of the family: the official numbers, names and sizes, and what every network of the package can do."""

import json

import pytest
import torch
from helpers.golden_files import read_golden
from helpers.network_contract import NetworkContract
from helpers.places import DATA
from helpers.tiny_relatives import TINY

from nnunetv2_dsvm.architecture.blocks.convolution import all_channels_first
from nnunetv2_dsvm.architecture.blocks.directional_scan import DirectionalScan
from nnunetv2_dsvm.architecture.official_names.registry import OFFICIAL_NAMES
from nnunetv2_dsvm.architecture.official_names.u_mamba import U_MAMBA, U_MAMBA_JANUARY
from nnunetv2_dsvm.architecture.official_names.vmamba import SECOND_GENERATION
from nnunetv2_dsvm.architecture.relatives import of_plans
from nnunetv2_dsvm.architecture.relatives.asp_vmunet import ASPVMUNet
from nnunetv2_dsvm.architecture.relatives.light_m_unet import LightMUNet
from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES
from nnunetv2_dsvm.architecture.relatives.u_mamba import UMambaBot, UMambaEnc
from nnunetv2_dsvm.architecture.vmamba2_encoder import VMamba2Encoder

GOLDEN = DATA / "relatives"
TINY_DIMS = (16, 32, 64, 128)


class RelativeContract(NetworkContract):
    """A relative's test class says its name, and the golden file's sizes."""

    name: str
    golden_sizes: dict
    golden_channels: tuple[int, int]
    without_drop_path = {"drop_path_rate": 0.0}

    file = ""  # where it is not named so

    @property
    def golden_file(self):
        return GOLDEN / f"{self.file or self.name}_golden.npz"

    def build(self, input_channels=1, num_classes=2, **options):
        sizes = {**TINY[self.name], **self.without_drop_path, **options}
        return RELATIVES[self.name].network(input_channels, num_classes, **sizes)

    def build_golden(self, config, weights):
        sizes = {**self.golden_sizes, **self.without_drop_path, "deep_supervision": True}
        network = RELATIVES[self.name].network(*self.golden_channels, **sizes)
        converted = OFFICIAL_NAMES[self.name].from_official(weights)
        missing, unexpected = network.load_state_dict(converted, strict=False)
        assert not unexpected and all(".seg_layers." in key for key in missing)
        return network

    def official_name(self, ours):
        return OFFICIAL_NAMES[self.name].to_official(ours)


def without_deep_supervision(network):
    """As where there is none in the official code."""
    network.decoder.deep_supervision = False
    return network


class TestVMUNetV2(RelativeContract):
    name = "VMUNetV2"
    golden_sizes = {"dims": TINY_DIMS, "encoder_depths": (1, 2, 1, 1), "mid_channels": 8}
    golden_channels = (3, 1)

    def build(self, input_channels=1, num_classes=2, **options):
        network = super().build(input_channels, num_classes, **options)
        for attention in network.decoder.attentions:  # of one hidden channel, whose ReLU may else give nothing
            attention.squeeze.weight.data.abs_()
        return network

    def test_images_that_are_no_squares(self):
        """The official code stops at them; these numbers are its own, with the one line mended."""
        golden = read_golden(self.golden_file)
        network = self.build_golden({}, golden.weights).double().eval()
        with torch.no_grad():
            logits = network(golden.tensors["nonsquare/input"].double())[0]
        assert golden.error("nonsquare/output", logits) <= self.tolerance_in_fp64


class TestMSVMUNet(RelativeContract):
    name = "MSVMUNet"
    without_drop_path = {"encoder_drop_path_rate": 0.0, "decoder_drop_path_rate": 0.0}
    golden_sizes = {"dims": TINY_DIMS, "encoder_depths": (1, 1, 2, 1)}
    golden_channels = (3, 4)

    def build_golden(self, config, weights):
        return without_deep_supervision(super().build_golden(config, weights))

    def test_odd_sizes_are_cropped_and_not_padded(self):
        """Where the official network runs on an odd size, its result is larger than the image, and else the same."""
        golden = read_golden(self.golden_file)
        network = self.build_golden({}, golden.weights).double().eval()
        with torch.no_grad():
            logits = network(golden.tensors["odd/input"].double())
        assert logits.shape[2:] == (61, 94)
        whole = torch.full((1, 4, 64, 96), torch.nan, dtype=torch.float64)
        whole[..., :61, :94] = logits
        step, expected = golden.samples["odd/output"]
        got = whole.flatten()[::step]
        inside = got.isfinite()
        assert inside.float().mean() > 0.9
        torch.testing.assert_close(got[inside], expected[inside].double(), rtol=1e-6, atol=1e-6)


class TestSwinUMamba(RelativeContract):
    name = "SwinUMamba"
    golden_sizes = {"dims": TINY_DIMS, "encoder_depths": (1, 2, 1, 1)}
    golden_channels = (2, 3)


class TestSwinUMambaD(RelativeContract):
    name = "SwinUMambaD"
    golden_sizes = {"dims": TINY_DIMS, "encoder_depths": (1, 2, 1, 1)}
    golden_channels = (2, 3)


class TestUMambaBot(RelativeContract):
    name = "UMambaBot"
    without_drop_path: dict = {}
    january = False

    def build_golden(self, config, weights):
        keys = ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage", "n_conv_per_stage_decoder")
        official = config["arguments"]
        self.golden_sizes = {**{key: official[key] for key in keys}, "patch_size": official.get("input_size")}
        if self.january:
            self.golden_sizes |= {"patch_size": config["input_shape"][2:], "january": True}
        self.golden_channels = (official["input_channels"], official["num_classes"])
        return super().build_golden(config, weights)

    def official_name(self, ours):
        """Official heads begin with the deepest, which only whole state dicts tell; each code has its own names."""
        codes = {True: U_MAMBA_JANUARY, False: U_MAMBA}
        official, heads = codes[self.january].to_official(ours), len(self.golden_sizes["n_conv_per_stage_decoder"])
        prefix, head, rest = official.partition("decoder.seg_layers.")
        return f"{prefix}{head}{heads - 1 - int(rest[0])}{rest[1:]}" if head else official


class TestUMambaEnc(TestUMambaBot):
    """Mamba behind every second stage, the last with channel tokens."""

    name = "UMambaEnc"
    tolerance = 1e-4


class TestLightMUNet(RelativeContract):
    name = "LightMUNet"
    without_drop_path: dict = {}
    tolerance = 5e-4  # the official code itself comes no nearer: LayerNorm meets tokens with a variance of 5e-4

    def build_golden(self, config, weights):
        official = config["arguments"]
        axes, stages = official["spatial_dims"], len(official["blocks_down"])
        self.golden_sizes = {
            "strides": [[1] * axes, *[[2] * axes] * (stages - 1)],
            "channels": official["init_filters"],
            "encoder_blocks": official["blocks_down"],
            "decoder_blocks": official["blocks_up"],
        }
        self.golden_channels = (official["in_channels"], official["out_channels"])
        return without_deep_supervision(super().build_golden(config, weights))


class TestASPVMUNet(RelativeContract):
    name = "ASPVMUNet"
    without_drop_path: dict = {}

    def build_golden(self, config, weights):
        official = config["arguments"]
        self.golden_sizes = {
            "channels": official["c_list"],
            "encoder_steps": official["encoder_atrous_step"],
            "decoder_steps": official["decoder_atrous_step"],
        }
        self.golden_channels = (official["input_channels"], official["num_classes"])
        return without_deep_supervision(super().build_golden(config, weights))

    def test_images_that_are_no_squares(self):
        """The official scan in the grid that its tokens come from, which the official code takes for a square."""
        golden = read_golden(self.golden_file)
        network = self.build_golden(golden.config, golden.weights).double().eval()
        with torch.no_grad():
            logits = network(golden.tensors["nonsquare/input"].double())
        assert golden.error("nonsquare/output", logits) <= self.tolerance_in_fp64


class UMambaEnc3D(TestUMambaEnc):
    """Mamba behind every stage, the last with channel tokens; strides that differ from axis to axis."""

    file = "UMambaEnc3D"


class UMambaEncJanuary(TestUMambaEnc):
    file, january = "UMambaEncJanuary", True


class LightMUNet3D(TestLightMUNet):
    file = "LightMUNet3D"


@pytest.mark.parametrize("contract", [UMambaEnc3D, UMambaEncJanuary, LightMUNet3D], ids=lambda c: c.__name__)
def test_further_official_numbers(contract):
    contract().test_golden_numbers()


@pytest.mark.parametrize("contract", [TestVMUNetV2, TestMSVMUNet, TestSwinUMamba, TestSwinUMambaD])
def test_gradient_checkpointing_changes_nothing(contract):
    plain, checkpointed = contract().build(), contract().build(gradient_checkpointing=True)
    checkpointed.load_state_dict(plain.state_dict())
    image, recomputed = torch.randn(2, 1, 64, 64), []
    for module in checkpointed.modules():
        if isinstance(module, DirectionalScan):
            module.register_forward_pre_hook(lambda module, _: recomputed.append(module))
    for network in (plain, checkpointed):
        network(image).square().sum().backward()
    blocks = set(recomputed)
    assert blocks and all(recomputed.count(module) == 2 for module in blocks)
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_the_encoder_of_vmambas_second_generation_has_the_official_numbers():
    """With twice the channels in the scan, as the files vssm_*_0229 and _0230 have them."""
    golden = read_golden(GOLDEN / "VMamba2_golden.npz")
    encoder = VMamba2Encoder(3, TINY_DIMS, (1, 1, 2, 1), ratio=2, drop_path_rate=0.0).double()
    weights = SECOND_GENERATION.from_official(golden.weights)
    encoder.load_state_dict({name.removeprefix("encoder."): value for name, value in weights.items()})
    image = golden.tensors["input"].double().requires_grad_()
    features = all_channels_first(encoder(image))
    for level, feature in enumerate(features, 1):
        assert golden.error(f"feature/encoder_stage_{level}", feature) <= 1e-6
    sum((f * golden.tensors[f"output_grad_{i}"]).sum() for i, f in enumerate(features, 1)).backward()
    assert golden.error("input_grad", image.grad) <= 1e-6


# name, entry of the file, network's arguments, parameters as published, dead ones among them that ours leaves out
PUBLISHED = [
    ("VMUNetV2", "published", (3, 1, {}), 22_770_934, 8_948_834),
    ("MSVMUNet", "tiny", (3, 9, {}), 35_925_513, 0),
    ("MSVMUNet", "small", (3, 9, {"encoder_depths": (2, 2, 20, 2)}), 54_689_289, 0),
    ("SwinUMamba", "AbdomenMR", (1, 14, {"auxiliary_heads": True}), 59_889_368, 0),
    ("SwinUMambaD", "AbdomenMR", (1, 14, {"auxiliary_heads": True}), 27_497_720, 0),
]


@pytest.mark.parametrize(("name", "entry", "arguments", "parameters", "dead"), PUBLISHED, ids=lambda v: str(v)[:12])
def test_full_sizes_have_the_official_names_shapes_and_parameters(name, entry, arguments, parameters, dead):
    official = json.loads((GOLDEN / "state_dicts.json").read_text())[name][entry]
    names, (channels, classes, options) = OFFICIAL_NAMES[name], arguments
    with torch.device("meta"):
        network = RELATIVES[name].network(channels, classes, **options)
    assert sum(p.numel() for p in network.parameters()) == parameters - dead and official["parameters"] == parameters
    ours = network.state_dict()
    there = {k: list(v.shape) for k, v in names.to_official_state(ours).items()}
    alive = {k: shape for k, shape in official["keys"].items() if not names.is_dead(k)}
    heads = {k: shape for k, shape in alive.items() if k not in there and k.startswith("seg_outs.")}  # VM-UNet V2's
    assert {**there, **heads} == alive
    with torch.device("meta"):
        back = names.from_official({k: torch.empty(shape) for k, shape in there.items()})
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in ours.items()}


SEQUENCE = json.loads((GOLDEN / "mamba_state_dicts.json").read_text())


def as_published(name, entry):
    """The network of an official configuration."""
    official = SEQUENCE[name][entry]["arguments"]
    if name == "ASPVMUNet":
        return ASPVMUNet(official["input_channels"], official["num_classes"], channels=official["c_list"])
    if name == "LightMUNet":
        axes = official["spatial_dims"]
        strides = of_plans.light_m_unet({}, [64] * axes)["strides"]
        return LightMUNet(official["in_channels"], official["out_channels"], strides=strides)
    network = UMambaEnc if "_enc_" in entry else UMambaBot
    patch_size = official.get("input_size", [512] * len(official["strides"][0]))
    arguments = {**of_plans.u_mamba(official, patch_size), "january": entry.startswith("january")}
    return network(official["input_channels"], official["num_classes"], **arguments)


@pytest.mark.parametrize(("name", "entry"), [(name, entry) for name, of in SEQUENCE.items() for entry in of])
def test_full_sizes_of_sequence_networks_are_the_official_ones(name, entry):
    official = SEQUENCE[name][entry]
    with torch.device("meta"):
        network = as_published(name, entry)
    assert sum(p.numel() for p in network.parameters()) == official["parameters"]
    names, ours = OFFICIAL_NAMES["UMambaBot" if name == "UMamba" else name], network.state_dict()
    there = names.to_official_state(ours)
    back = names.from_official(there)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in ours.items()}
    if "keys" in official:
        alive = {k: shape for k, shape in official["keys"].items() if not names.is_dead(k)}
        assert {k: list(v.shape) for k, v in there.items()} == alive


@pytest.mark.parametrize("name", ["UMambaBot", "UMambaEnc"])
@pytest.mark.parametrize("january", [False, True])
def test_the_names_of_u_mamba_keep_values_and_leave_second_names_out(name, january):
    network = RELATIVES[name].network(1, 3, **{"patch_size": [64, 64], **TINY[name]}, january=january)
    weights = {key: torch.randn_like(value) for key, value in network.state_dict().items()}
    official = OFFICIAL_NAMES[name].to_official_state(weights)
    assert torch.equal(official["decoder.seg_layers.1.weight"], weights["decoder.seg_layers.0.weight"])
    second = {f"decoder.{key}": torch.empty(0) for key in official if key.startswith("encoder.")}
    back = OFFICIAL_NAMES[name].from_official({**official, **second})
    assert back.keys() == weights.keys() and all(torch.equal(back[key], weights[key]) for key in weights)


@pytest.mark.parametrize("name", OFFICIAL_NAMES)
def test_other_names_are_refused(name):
    names = OFFICIAL_NAMES[name]
    for unknown in ("encoder.unknown", "head.weight"):
        with pytest.raises(KeyError, match=f"not a parameter of {names.network}"):
            names.to_ours(unknown)
    with pytest.raises(KeyError, match="not a parameter"):
        names.to_official("decoder.unknown.weight")


@pytest.mark.parametrize("name", RELATIVES)
def test_sizes_that_do_not_fit_are_refused(name):
    network, sizes = RELATIVES[name].network, TINY[name]
    with pytest.raises(ValueError, match="channels"):
        network(0, 1, **sizes)
    with pytest.raises(ValueError, match="auxiliary_heads"):
        network(1, 1, deep_supervision=True, auxiliary_heads=False, **sizes)
