"""What every object that is written says of the patient, the study and the algorithm."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

from pydicom import Dataset

from nnunetv2_dsvm.dicom.model import Model
from nnunetv2_dsvm.host.versions import PACKAGE
from nnunetv2_dsvm.version import __version__

_PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize",
    "PatientWeight", "PatientIdentityRemoved", "DeidentificationMethod", "StudyDate", "StudyTime", "AccessionNumber",
    "StudyID", "StudyDescription", "ReferringPhysicianName",
)  # fmt: skip
# Of these, the ones that must be there, empty or not.
REQUIRED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "StudyID", "ReferringPhysicianName",
)  # fmt: skip


@dataclass(frozen=True)
class Algorithm:
    """What has segmented a scan.

    Attributes:
        trainer: name of its class.
        parameters: plans, configuration, dataset, folds and the SHA-256 of each fold's checkpoint, as texts.
    """

    trainer: str
    parameters: Mapping[str, str]

    @property
    def package(self) -> str:
        return PACKAGE

    @property
    def version(self) -> str:
        return __version__

    @property
    def serial_number(self) -> str:
        """Another one for other weights."""
        return next(iter(self.parameters["checkpoint_sha256"].split()))[:16]

    @property
    def texts(self) -> list[str]:
        """All that objects say of it."""
        return [self.trainer, *self.parameters.values()]

    def as_json(self) -> dict[str, object]:
        return {"package": f"{self.package} {self.version}", "trainer": self.trainer, **self.parameters}


def algorithm_of(model: Model) -> Algorithm:
    return Algorithm(
        model.trainer,
        {
            "dataset": str(model.plans.get("dataset_name", "")),
            "plans": str(model.plans.get("plans_name", "")),
            "configuration": model.configuration,
            "folds": " ".join(model.folds),
            "checkpoint": model.checkpoint,
            "checkpoint_sha256": " ".join(model.checksums),
        },
    )


def long_string(text: str) -> str:
    """A text as one value of DICOM's type LO: of at most 64 characters, without what divides it or is no letter."""
    return "".join(letter if letter.isprintable() else " " for letter in text.replace("\\", "/"))[:64]


def copy_patient_and_study(source: Dataset, target: Dataset) -> None:
    """Whose images were segmented, as the source says it; empty where it does not and something must stand there."""
    for keyword in _PATIENT_AND_STUDY:
        if keyword in source:
            target[keyword] = deepcopy(source[keyword])
        elif keyword in REQUIRED:
            setattr(target, keyword, "")


def character_set(source: Dataset, texts: Sequence[str]) -> str | list[str] | None:
    """The source's, or UTF-8 where texts of ours need it; None for ASCII."""
    if all(text.isascii() for text in texts):
        return source.get("SpecificCharacterSet")
    return "ISO_IR 192"
