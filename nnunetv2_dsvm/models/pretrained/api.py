"""Make pretrained weights into a file for nnU-Net's -pretrained_weights, as `nnUNetv2_dsvm convert-weights` does."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar, get_args

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES
from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork
from nnunetv2_dsvm.architecture.vm_unet import PRESETS, VMUNet
from nnunetv2_dsvm.errors import Refusal, UserError, check_choice
from nnunetv2_dsvm.files.places_to_write import check_file_place
from nnunetv2_dsvm.models.pretrained.fitting import SMALLEST_SHARE, DecoderSource, check_enough_fits, fit
from nnunetv2_dsvm.models.pretrained.load_report import load_report
from nnunetv2_dsvm.models.pretrained.reading import read_pretrained
from nnunetv2_dsvm.models.pretrained.relatives import fit_relative, in_words
from nnunetv2_dsvm.models.pretrained.writing import origin, write_weights
from nnunetv2_dsvm.nnunet.names import DATASET_JSON
from nnunetv2_dsvm.planning.network_of_plans import DEFAULT_PRESET, build_vm_unet
from nnunetv2_dsvm.planning.network_settings import with_settings
from nnunetv2_dsvm.planning.relative_of_plans import build_relative
from nnunetv2_dsvm.version import __version__

_LOG = logging.getLogger(__name__)
_Network = TypeVar("_Network", bound=SegmentationNetwork)


@dataclass(frozen=True)
class ConvertedWeights:
    """What was written, and how much of it is from the file.

    Attributes:
        file: for nnU-Net's `-pretrained_weights`.
        share_of_encoder, share_of_network: of their parameters, those that were loaded, 0 … 1; without the heads.
        report: what was loaded and what found no place, in words.
    """

    file: Path
    share_of_encoder: float
    share_of_network: float
    report: str


def convert_weights(
    file: Path | str,
    output: Path | str,
    *,
    network: str | None = None,
    input_channels: int | None = None,
    preset: str | None = None,
    plans: Path | str | None = None,
    configuration: str = "2d",
    fine_channels: int = 0,
    decoder: DecoderSource = "auto",
    inflate: bool = False,
    force: bool = False,
    overwrite: bool = False,
) -> ConvertedWeights:
    """Fits the weights of a checkpoint of VMamba, of VM-UNet or of our trainers into a network, and writes them.

    Nothing of the checkpoint but tensors and plain values is loaded. The report is logged before anything is written.

    Args:
        file: the checkpoint.
        output: the file to write, in a folder that exists.
        network: name of a relative of VM-UNet (`architecture.relatives.registry`) that the weights are for; by default
            they are for a VM-UNet. `preset`, `fine_channels`, `decoder` and `inflate` are the VM-UNet's only.
        input_channels: of the images; by default those of the dataset.json beside `plans`, or the checkpoint's.
        preset: size of the network, "base" by default, which our trainers build from nnU-Net's own plans.
        plans: instead of a preset, the plans.json whose network it is for.
        configuration: of the plans.
        fine_channels: of a VM-UNet, as `nnUNetTrainerDSVM_fine` states it in the place of the plans (32); its stages
            start fresh where the checkpoint has none.
        decoder: starts as the checkpoint's own decoder or else with its encoder's blocks (`"auto"`), with the
            encoder's blocks, or fresh.
        inflate: makes weights of images, as ImageNet's, into those of a 3D configuration of `plans`
            (`models.pretrained.inflate`).
        force: write even if less than half of the encoder's parameters are loaded.
        overwrite: whether a file at `output` is replaced.

    Raises:
        UserError: a file is missing, damaged or of another network, asks for code to be run, or fits too little; or
            the place is taken or cannot be written. Nothing is written then.

    Examples:
        >>> from nnunetv2_dsvm import convert_weights
        >>> converted = convert_weights("checkpoint.pth", "weights.pth", plans="plans.json", input_channels=3)
        >>> converted.file.name, converted.share_of_encoder
        ('weights.pth', 1.0)
    """
    file, output = Path(file), Path(output)
    check_output(file, output, overwrite)
    check_choice("decoder", decoder, get_args(DecoderSource))
    check_choice("preset", preset or DEFAULT_PRESET, PRESETS)
    if network is not None:
        check_choice("network", network, RELATIVES)
        if preset is not None or decoder != "auto" or inflate or fine_channels:
            raise UserError(
                f"preset, fine_channels, decoder and inflate are a VM-UNet's, not {RELATIVES[network].title}'s: leave "
                "them out"
            )
        return _for_relative(file, output, network, input_channels, plans, configuration, force)
    if preset is not None and plans is not None:
        raise UserError("a preset and plans are two networks: give one of them")
    pretrained = read_pretrained(file)
    with torch.random.fork_rng(devices=[]):  # what is not loaded is the same in every call
        torch.manual_seed(0)
        if plans is None:
            channels = input_channels or pretrained.sizes["input_channels"]
            vm_unet = _network_of_preset(preset or DEFAULT_PRESET, channels, fine_channels)
        else:
            build = partial(_build_fine, fine_channels) if fine_channels else build_vm_unet
            vm_unet = _network_of_plans(Path(plans), configuration, input_channels, build)
    fitted = fit(pretrained, vm_unet, decoder, inflate)
    report = load_report(pretrained, fitted, vm_unet, decoder)
    _LOG.info("%s", report)
    check_enough_fits(pretrained, fitted, vm_unet, force)
    write_weights(fitted, origin(pretrained, fitted, vm_unet, decoder), output)
    return ConvertedWeights(output, fitted.share("encoder."), fitted.share(""), report)


def _network_of_preset(preset: str, channels: int, fine_channels: int) -> VMUNet:
    try:
        return VMUNet.from_preset(preset, channels, num_classes=1, fine_channels=fine_channels)
    except ValueError as error:
        raise UserError(str(error)) from error


def _build_fine(fine_channels: int, planned: ConfigurationManager, *channels: int, **heads: bool) -> VMUNet:
    return build_vm_unet(with_settings(planned, {"fine_channels": fine_channels}), *channels, **heads)


def check_output(file: Path, output: Path, overwrite: bool) -> None:
    """Raises UserError unless what is made of `file` may be written to `output`."""
    check_file_place(output, "name a file in a folder that exists with -o")
    if output.exists() and output.resolve() == file.resolve():
        raise UserError(f"-o {output} is the file to be read; name another one")
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists; choose another place with -o, or --overwrite")


def _for_relative(
    file: Path,
    output: Path,
    name: str,
    channels: int | None,
    plans: Path | str | None,
    configuration: str,
    force: bool,
) -> ConvertedWeights:
    if plans is None and channels is None:
        raise UserError("name the channels of your images with --input-channels, or the plans with --plans")
    if plans is None and RELATIVES[name].of_plans:
        raise UserError(f"{RELATIVES[name].title} is built of nnU-Net's plans: name them with --plans")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if plans is None:
            assert channels is not None
            network = RELATIVES[name].network(channels, 1)
        else:
            network = _network_of_plans(Path(plans), configuration, channels, partial(build_relative, name))
    result = fit_relative(file, name, network)
    share, report = result.fitted.share("encoder."), in_words(result)
    _LOG.info("%s", report)
    if share < SMALLEST_SHARE and not (force and share):
        raise UserError(
            f"{file} ({result.naming}) fills only {share:.0%} of the encoder's parameters of this "
            f"{RELATIVES[name].title}: choose the size that fits in plans (nnUNetv2_dsvm copy-plans), or --force to "
            "write what there is. Nothing was written."
        )
    origin = {"version": __version__, "converted_from": file.name, "naming": result.naming, "network": name}
    write_weights(result.fitted, {**origin, "share_of_encoder": share}, output)
    return ConvertedWeights(output, share, result.fitted.share(""), report)


def _network_of_plans(file: Path, configuration: str, channels: int | None, build: Callable[..., _Network]) -> _Network:
    dataset_json = file.with_name(DATASET_JSON)
    try:
        plans = PlansManager(json.loads(file.read_text(encoding="utf-8")))
        planned = plans.get_configuration(configuration)
        if channels is None:
            if not dataset_json.is_file():
                raise UserError(f"there is no dataset.json beside {file}: name the channels with --input-channels")
            channels = determine_num_input_channels(plans, planned, json.loads(dataset_json.read_text("utf-8")))
        return build(planned, channels, 1, deep_supervision=False, auxiliary_heads=False)
    except Refusal:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{file} gives no network for the configuration {configuration}: {error}") from error
