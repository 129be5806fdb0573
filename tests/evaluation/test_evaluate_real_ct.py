"""`nnUNetv2_dsvm evaluate` on real CT: the quickstart's person B, beside nnU-Net's Dice and medpy's HD95."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.dataset_miniatures import threads_for_processes
from medpy.metric import binary
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy import ndimage

from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.datasets.raw_cases import write_dataset
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.quickstart import totalsegmentator_example as example
from nnunetv2_dsvm.quickstart.source_archive import extract, fetch


@pytest.fixture(scope="module")
def person_b(tmp_path_factory):
    """The dataset with this one case, from the archive that the quickstart fetches and keeps in its cache."""
    try:
        archive = fetch(example.ARCHIVE)
    except UserError as error:
        pytest.skip(f"the CT could not be fetched: {str(error).split('. ')[0]}")
    root = tmp_path_factory.mktemp("person_b")
    extract(
        archive, lambda path: path.startswith(tuple(f"{example.REFERENCE_FILES}/{n}" for n in example.PATIENT_B)), root
    )
    case = example.read_patient("patientB", *(root / example.REFERENCE_FILES / name for name in example.PATIENT_B))
    raw = root / "Dataset900_PersonB"
    write_dataset(raw, training=[], test=[case], label_names=example.ORGANS, description="", reference="")
    return raw


def drawn_prediction(labels: np.ndarray) -> np.ndarray:
    """The ground truth with rounded outlines, moved a little, and with a false positive far from its organ."""
    rounded = ndimage.median_filter(labels, size=(1, 7, 7))
    moved = np.roll(rounded, (1, 2, -3), axis=(0, 1, 2))
    moved[2:4, 40:44, 50:55] = 1
    return moved


@pytest.mark.slow
def test_dice_is_nnunets_and_hd95_is_medpys(person_b, tmp_path):
    image = sitk.ReadImage(str(person_b / "labelsTs" / "patientB.nii.gz"))
    truth, spacing = sitk.GetArrayFromImage(image), image.GetSpacing()[::-1]
    prediction = drawn_prediction(truth)
    said = sitk.GetImageFromArray(prediction)
    said.CopyInformation(image)
    sitk.WriteImage(said, str(tmp_path / "patientB.nii.gz"))
    (tmp_path / "dataset.json").write_bytes((person_b / "dataset.json").read_bytes())

    assert main(["evaluate", str(person_b / "labelsTs"), str(tmp_path), "-np", "1"]) == 0
    metrics = json.loads((tmp_path / "metrics_nnunet.json").read_text(encoding="utf-8"))
    (case,) = metrics["per_case"]
    values = [*range(1, 1 + len(example.ORGANS))]
    with threads_for_processes():
        nnunets = compute_metrics_on_folder(
            str(person_b / "labelsTs"), str(tmp_path), None, SimpleITKIO(), ".nii.gz", values, num_processes=1
        )["metric_per_case"][0]["metrics"]  # fmt: skip
    assert list(case["values"]) == list(example.ORGANS)
    for value, (organ, found) in zip(values, case["values"].items(), strict=True):
        assert (truth == value).any(), organ
        assert found["Dice"] == pytest.approx(nnunets[value]["Dice"], abs=1e-6), organ
        assert 0.2 < found["Dice"] < 0.98, organ
        expected = binary.hd95(prediction == value, truth == value, voxelspacing=spacing)
        assert found["HD95_mm"] == pytest.approx(expected, abs=1e-6), organ
