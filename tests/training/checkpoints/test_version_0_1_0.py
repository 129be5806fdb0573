"""A training that 0.1.0 began and today's code ends: nnU-Net's own `--c` comes to the losses that 0.1.0 came to."""

import json
import platform
import shutil
from importlib.metadata import version

import numpy as np
import pytest
import torch
from helpers.label_maps import label_maps
from helpers.places import DATA

WRITTEN = DATA / "version_0_1_0"
TRAINER, PLANS = "nnUNetTrainerDSVM_short", "smallPlans"
MADE_WITH = json.loads((WRITTEN / "made_with.json").read_text())
# To some last bits with the versions and the kind of processor that 0.1.0 ran with (which maker's is not known, and
# Intel's and AMD's differ in them); others may add up in another order.
HERE = {
    **{name: version(name) for name in ("numpy", "nnunetv2", "batchgeneratorsv2")},
    "torch": torch.__version__,
    "machine": platform.machine(),
    "cpu_capability": torch.backends.cpu.get_cpu_capability(),
}
ALIKE = HERE.items() <= MADE_WITH.items()
CASE = "case_000.nii.gz"  # the validation's
CLOCKS = {"epoch_start_timestamps", "epoch_end_timestamps"}


def checkpoint(folder):
    return torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)


@pytest.fixture
def continued(copied_dataset):
    """The folder of 0.1.0's model, after `nnUNetv2_train 901 2d 0 … --c`."""
    shutil.copy(WRITTEN / "interrupted" / "plans.json", copied_dataset.preprocessed / f"{PLANS}.json")
    model = copied_dataset.results / f"{TRAINER}__{PLANS}__2d"
    shutil.copytree(WRITTEN / "interrupted", model)
    # fmt: off
    copied_dataset.command_here(
        "nnUNetv2_train", "901", "2d", "0", "-tr", TRAINER, "-p", PLANS, "-device", "cpu", "--c",
        nnUNet_extTrainer=str(WRITTEN / "users_trainers"), NNUNETV2_DSVM_SEED=MADE_WITH["NNUNETV2_DSVM_SEED"],
    )
    # fmt: on
    return model


@pytest.mark.usefixtures("one_thread", "no_pictures")
def test_an_interrupted_training_of_0_1_0_ends_as_it_did_there(continued):
    there, here = checkpoint(WRITTEN / "finished"), checkpoint(continued)
    assert (here["trainer_name"], here["current_epoch"], there["nnunetv2_dsvm"]["version"]) == (TRAINER, 4, "0.1.0")
    for key in there["logging"].keys() - CLOCKS:
        values, expected = here["logging"][key], there["logging"][key]
        assert len(values) == len(expected) == 4
        elsewhere = 1e-2 if "dice" in key else 1e-5  # a Dice jumps with a pixel
        np.testing.assert_allclose(values, expected, rtol=1e-6 if ALIKE else elsewhere, err_msg=key)
    weights = {**there["network_weights"], **there["nnunetv2_dsvm"]["projections"]}
    ours = {**here["network_weights"], **here["nnunetv2_dsvm"]["projections"]}
    # The scan's gradients are summed in another order than in 0.1.0: the last bit of a weight may be another one.
    torch.testing.assert_close(ours, weights, rtol=1e-5, atol=1e-6)
    models = WRITTEN / "finished", continued
    expected, segmented = (label_maps(model / "fold_0" / "validation") for model in models)
    assert segmented.keys() == expected.keys() == {CASE}
    assert (segmented[CASE] != expected[CASE]).mean() <= (0 if ALIKE else 0.01)
