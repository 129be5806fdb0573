"""The numbers by the papers' protocols, where `nnUNetv2_dsvm evaluate --protocol …` has measured the validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_dsvm.evaluation.summary import Statistic
from nnunetv2_dsvm.files.json_files import read_json_object
from nnunetv2_dsvm.nnunet.trained_model import TrainedModel
from nnunetv2_dsvm.reporting.results import (
    AGAIN,
    CaseValues,
    explaining_other_form,
    is_newer,
    or_nan,
    summary_in_file,
)

PAPERS = {
    "isic": "all pixels of the set in one confusion matrix, as VM-UNet on ISIC",
    "synapse": "each volume by itself, distances in voxels, as TransUNet and VM-UNet on Synapse",
}


@dataclass(frozen=True)
class PapersNumbers:
    """One protocol's numbers of a model: class, or the mean, -> metric -> statistic."""

    metrics: tuple[str, ...]
    summary: Mapping[str, Mapping[str, Statistic]]
    per_case: Mapping[str, CaseValues]
    notes: tuple[str, ...]

    @property
    def number_of_cases(self) -> int:
        return len(self.per_case)


def read_papers_numbers(model: TrainedModel, folds: Sequence[str]) -> dict[str, PapersNumbers]:
    """By protocol, those that were measured on exactly these folds.

    Raises:
        UserError: a file cannot be read.
    """
    found = {}
    for protocol in PAPERS:
        file = model.metrics_folder(folds) / f"metrics_{protocol}.json"
        if not file.is_file():
            continue
        content = read_json_object(file, AGAIN)
        with explaining_other_form(file, AGAIN):
            cases = content["per_case"]
            notes = [f"Empty masks: {content['rule_for_empty_masks'].rstrip('.')}."]
            if any(is_newer(Path(case["prediction"]), file) for case in cases):
                notes.append("Some predictions are newer than these metrics: run nnUNetv2_dsvm evaluate again.")
            per_case = {
                case["case"]: {
                    label: {metric: or_nan(value) for metric, value in of_label.items()}
                    for label, of_label in case["values"].items()
                }
                for case in cases
            }
            summary = summary_in_file(content)
            found[protocol] = PapersNumbers(tuple(content["metrics"]), summary, per_case, tuple(notes))
    return found
