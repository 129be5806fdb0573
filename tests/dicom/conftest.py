"""A model whose labels are known from the image, for nnU-Net's own prediction."""

import os

import pytest
from helpers.threshold_model import folder_of_trainers, make_threshold_model


@pytest.fixture(scope="session", autouse=True)
def trainers(tmp_path_factory):
    """nnU-Net finds the trainers of threshold_model.py, beside ours."""
    folder = folder_of_trainers(tmp_path_factory.mktemp("trainers") / "of_a_user")
    with pytest.MonkeyPatch.context() as patch:
        others = os.environ.get("nnUNet_extTrainer")
        patch.setenv("nnUNet_extTrainer", os.pathsep.join(filter(None, [str(folder), others])))
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """For CT."""
    return make_threshold_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def mr_model(tmp_path_factory):
    return make_threshold_model(tmp_path_factory.mktemp("mr_model"), channels=("MR_T2",))


@pytest.fixture(scope="session")
def colour_model(tmp_path_factory):
    """For PNG files of three colours, whose mean is what counts."""
    return make_threshold_model(
        tmp_path_factory.mktemp("colour_model"), channels=("R", "G", "B"), file_ending=".png",
        reader="NaturalImage2DIO", spacing_mm=(1.0, 1.0),
    )  # fmt: skip
