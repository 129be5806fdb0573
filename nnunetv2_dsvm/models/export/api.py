"""Export a trained network as one file, as `nnUNetv2_dsvm export` does."""

from dataclasses import dataclass
from pathlib import Path

from nnunetv2_dsvm.models.export.agreement import TOLERANCE
from nnunetv2_dsvm.models.export.formats import Format
from nnunetv2_dsvm.models.export.metadata import NOT_INSIDE
from nnunetv2_dsvm.models.export.write import check_place, write_portable_model
from nnunetv2_dsvm.models.trained_network import load_trained_network
from nnunetv2_dsvm.nnunet.names import FINAL


@dataclass(frozen=True)
class ExportedModel:
    """What was written, and how well it agrees with the network.

    Attributes:
        file: takes a normalised image `(batch, channels, *sizes)` in fp32, gives logits.
        difference: the largest from the network's logits, as a part of the largest absolute logit.
        allowed_difference: beyond which no file is kept.
        not_inside: what whoever runs the file has to do, in words.
    """

    file: Path
    difference: float
    allowed_difference: float = TOLERANCE
    not_inside: str = NOT_INSIDE


def export(
    model: Path | str,
    output: Path | str,
    *,
    fold: str | int,
    format: Format = "torch-export",
    checkpoint: str = FINAL,
    overwrite: bool = False,
) -> ExportedModel:
    """Writes the network of one fold as a file that runs without this package, for any batch and image size.

    A network for images of one size (`SegmentationNetwork.only_size`) gives a file for that size. The file is run and
    compared with the network before it takes its place. What is being done is logged.

    Args:
        model: folder of a trained model, with `plans.json`, `dataset.json` and `fold_X`.
        output: ends in `.pt2` (torch-export) or `.onnx`.
        fold: a number, or `all`.
        format: onnx needs `pip install 'nnunetv2_dsvm[export]'`.
        checkpoint: the file in the fold's folder.
        overwrite: whether a file of that name is replaced.

    Raises:
        UserError: something is missing or of another network, the place is taken or cannot be written, a package is
            missing, or the file disagrees. Nothing is left then, and an older file is as it was.

    Examples:
        >>> from nnunetv2_dsvm import export
        >>> exported = export("model", "model.pt2", fold=0)
        >>> exported.file.name, exported.difference <= exported.allowed_difference
        ('model.pt2', True)
    """
    file = Path(output)
    check_place(file, format, overwrite)
    trained = load_trained_network(model, fold, checkpoint)
    return ExportedModel(file, write_portable_model(trained, file, format, overwrite=overwrite))
