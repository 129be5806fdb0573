"""From a trained network to a checked file."""

import logging
from pathlib import Path

from nnunetv2_dsvm.errors import UserError, check_choice
from nnunetv2_dsvm.files.atomic_write import replaced_file
from nnunetv2_dsvm.files.places_to_write import check_file_place
from nnunetv2_dsvm.models.export import formats
from nnunetv2_dsvm.models.export.agreement import largest_difference, shapes_to_check
from nnunetv2_dsvm.models.export.formats import SUFFIXES, Format
from nnunetv2_dsvm.models.export.metadata import describe
from nnunetv2_dsvm.models.trained_network import TrainedNetwork

_LOG = logging.getLogger(__name__)


def write_portable_model(
    trained: TrainedNetwork,
    path: Path,
    format: Format,
    *,
    overwrite: bool = False,
) -> float:
    """Exports a trained network, on the CPU, to a file that is read back and compared with the network before it stays.

    It is written beside its place and moved there in one step when its numbers agree (`agreement.TOLERANCE`).

    Args:
        trained: its network is on the CPU.
        path: ends in `.pt2` (torch-export) or `.onnx`.
        format: of the file.
        overwrite: whether a file of that name is replaced.

    Returns:
        The largest difference found, as a part of the largest absolute logit.

    Raises:
        UserError: the place is taken or cannot be written, the suffix is not the format's, torch cannot trace the
            network, a package is missing, or the file disagrees. Nothing is left then, and an older file is as it was.
    """
    check_place(path, format, overwrite)
    formats.check_packages(format)
    network = trained.network
    channels = network.input_channels
    try:
        with replaced_file(path) as temporary:
            _LOG.info("tracing the network")
            program = formats.trace(network, channels)
            _LOG.info("writing %s", path.name)
            formats.write(program, format, describe(trained), temporary)
            _LOG.info("running the file, and comparing it with the network")
            exported = formats.load(temporary, format)
            shapes = shapes_to_check(trained.configuration.patch_size, network.only_size)
            difference = largest_difference(network, exported, shapes, channels)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error
    return difference


def check_place(path: Path, format: Format, overwrite: bool) -> None:
    """Raises UserError unless a file of this format may be written there."""
    check_choice("format", format, SUFFIXES)
    if path.suffix.lower() != SUFFIXES[format]:
        raise UserError(f"{path} must end in {SUFFIXES[format]} for --format {format}")
    check_file_place(path, "name another file with -o")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists: name another file, or add --overwrite to replace it")
