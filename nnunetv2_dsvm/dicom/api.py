"""Segment a DICOM series, as `nnUNetv2_dsvm predict_dicom` does."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from nnunetv2_dsvm.dicom.results import DEFAULT_OUTPUTS, FILES, DicomPrediction, check_free
from nnunetv2_dsvm.errors import UserError, check_choice, check_several
from nnunetv2_dsvm.files.places_to_write import check_folder_place
from nnunetv2_dsvm.nnunet.names import FINAL


def predict_dicom(
    scan: Path | str,
    output: Path | str,
    model: Path | str,
    *,
    folds: Sequence[str | int] | None = None,
    checkpoint: str = FINAL,
    outputs: Sequence[str] = DEFAULT_OUTPUTS,
    series: str | int | None = None,
    terminology: Path | str | None = None,
    resample: bool = False,
    keep_identity: bool = False,
    overwrite: bool = False,
    device: str = "cuda",
    show_progress: bool = False,
) -> DicomPrediction:
    """Segments one series of a study with a trained model and writes the result as NIfTI, DICOM SEG and RTSTRUCT.

    A table of volumes and a picture lie beside it. Which series there are, and which is taken, is logged.

    Args:
        scan: a folder with a series or a study, a zip of one, a DICOMDIR, or one DICOM file.
        output: folder, made where there is none; files appear in it when all are whole.
        model: folder of a trained model, of any trainer, or the zip of `nnUNetv2_export_model_to_zip`.
        folds: that predict together; by default all numbered ones that are there, else `all`.
        checkpoint: the file in each fold's folder.
        outputs: some of nifti, seg, rtstruct.
        series: a Series Number or Series Instance UID, where several series can be segmented.
        terminology: JSON with codes of labels; see `dicom.writing.terminology.terms_of`.
        resample: straighten the slices of a tilted gantry for the network instead of refusing them.
        keep_identity: also name series by UID and description, and the patient in volumes.json. SEG and RTSTRUCT name
            the patient in any case, as they belong to the study.
        overwrite: whether earlier results in the folder are replaced.
        device: as nnU-Net names it.
        show_progress: whether nnU-Net's progress bar is shown.

    Raises:
        UserError: the series or the model cannot be used, or does not fit the other, the place is taken or cannot be
            written, or a package is missing. Nothing is left then, and earlier results are as they were.

    Examples:
        >>> from nnunetv2_dsvm import predict_dicom
        >>> prediction = predict_dicom("study", "segmented", "model.zip", device="cpu")
        >>> [file.name for file in prediction.files]
        ['segmentation.nii.gz', 'segmentation.dcm', 'volumes.json', 'volumes.csv', 'overlay.png']
    """
    check_several("outputs", outputs)
    for name in outputs:
        check_choice("output", name, FILES)
    folder = Path(output)
    check_folder_place(folder, "choose another folder with -o")
    check_free(folder, overwrite=overwrite)
    for package in ("pydicom", "highdicom"):
        if find_spec(package) is None:
            raise UserError(f"{package} is missing, which reads and writes DICOM: pip install 'nnunetv2_dsvm[dicom]'")
    from nnunetv2_dsvm.dicom.run import Task, run

    return run(
        Task(
            scan=Path(scan),
            output=folder,
            model=Path(model),
            folds=folds,
            checkpoint=checkpoint,
            outputs=tuple(dict.fromkeys(outputs)),
            series=None if series is None else str(series),
            terminology=None if terminology is None else Path(terminology),
            resample=resample,
            keep_identity=keep_identity,
            overwrite=overwrite,
            device=device,
            show_progress=show_progress,
        )
    )
