"""What is evaluated together: the predictions of one model, their references, labels and file reader."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.evaluation.case_result import EvaluatedCase
from nnunetv2_dsvm.files.json_files import read_json_object
from nnunetv2_dsvm.files.listing import visible_files
from nnunetv2_dsvm.nnunet.labels import Labels, read_labels
from nnunetv2_dsvm.nnunet.names import DATASET_JSON, PLANS_JSON


@dataclass(frozen=True)
class PredictionSet:
    """The predictions of one model.

    Args:
        model: its name in tables.
        folder: where its metrics are written by default.
        cases: by name, ascending.
        labels: of the dataset.
        reader_class: nnU-Net's, for the files.
    """

    model: str
    folder: Path
    cases: tuple[EvaluatedCase, ...]
    labels: Labels
    reader_class: type


def from_folders(
    reference: Path, predictions: Sequence[Path], *, dataset_json: Path | None = None, plans: Path | None = None
) -> tuple[list[PredictionSet], list[str]]:
    """Folders of predictions for one folder of references.

    Args:
        dataset_json, plans: by default the files that nnU-Net's predictor writes beside its predictions. Without any
            plans, dataset.json chooses the reader.

    Returns:
        A set for each folder, and every missing or surplus file in words.

    Raises:
        UserError: a folder or dataset.json is missing or unusable.
    """
    absent = [str(folder) for folder in (reference, *predictions) if not folder.is_dir()]
    if absent:
        raise UserError(f"no such folder: {', '.join(absent)}")
    names = _distinct_names(predictions)
    sets, problems = [], []
    for name, folder in zip(names, predictions, strict=True):
        content = read_json_object(dataset_json or _beside(folder, DATASET_JSON, "-djfile"))
        plans_file = plans or (folder / PLANS_JSON if (folder / PLANS_JSON).is_file() else None)
        ending = file_ending(content)
        expected, present = case_names(reference, ending), case_names(folder, ending)
        if not expected:
            raise UserError(f"{reference} holds no *{ending} file, the file_ending in dataset.json")
        missing, surplus = sorted({*expected} - {*present}), sorted({*present} - {*expected})
        problems += [f"{folder / (case + ending)} is missing" for case in missing]
        problems += [f"{folder / (case + ending)} has no reference in {reference}" for case in surplus]
        both = sorted({*expected} & {*present})
        cases = tuple(EvaluatedCase(case, reference / (case + ending), folder / (case + ending)) for case in both)
        example = reference / (expected[0] + ending)
        sets.append(PredictionSet(name, folder, cases, read_labels(content), reader(content, plans_file, example)))
    return sets, problems


def file_ending(dataset_json: dict[str, Any]) -> str:
    """Raises:
    UserError: dataset.json has none.
    """
    ending = dataset_json.get("file_ending")
    if not isinstance(ending, str) or not ending:
        raise UserError('dataset.json has no "file_ending", expected e.g. ".nii.gz"')
    return ending


def case_names(folder: Path, ending: str) -> list[str]:
    """The names of a folder's files without their ending, ascending."""
    return sorted(path.name[: -len(ending)] for path in visible_files(folder, ending))


def reader(dataset_json: dict[str, Any], plans_file: Path | None, example: Path) -> type:
    """nnU-Net's reader: the one in the plans, else the one that it would choose for the dataset."""
    from nnunetv2.imageio import reader_writer_registry as registry

    try:
        if plans_file is not None:
            return registry.recursive_find_reader_writer_by_name(read_json_object(plans_file)["image_reader_writer"])
        return registry.determine_reader_writer_from_dataset_json(dataset_json, str(example), verbose=False)
    except (RuntimeError, KeyError) as error:
        raise UserError(f"nnU-Net has no reader for {example} ({plans_file or DATASET_JSON}): {error}") from error


def _beside(folder: Path, name: str, option: str) -> Path:
    if not (folder / name).is_file():
        raise UserError(f"there is no {name} in {folder}, where nnU-Net's predictor writes it; name one with {option}")
    return folder / name


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell the folders apart."""
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise UserError(f"a folder is named twice: {', '.join(map(str, folders))}")
    for length in range(1, max(len(path.parts) for path in resolved) + 1):
        names = ["/".join(path.parts[-length:]) for path in resolved]
        if len(set(names)) == len(names):
            break
    return names
