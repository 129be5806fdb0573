"""A model that was trained with one backend of the scan predicts the same with every other."""

import os
from importlib.util import find_spec

import pytest
from helpers.backend_agreement import assert_backends_agree
from helpers.interpreted import FOLDER, run_interpreted
from helpers.short_trainers import ShortDSVM

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")


class Trained(ShortDSVM):
    default_num_epochs = 1
    default_initial_lr = 5e-3


def test_every_backend_of_a_cpu_predicts_the_same(make, monkeypatch):
    monkeypatch.setenv("NNUNETV2_DSVM_SEED", "1")
    trainer = make(Trained)
    trainer.num_iterations_per_epoch = 40  # it then tells objects from background
    trainer.run_training()
    checkpoint = os.path.join(trainer.output_folder, "checkpoint_final.pth")
    assert_backends_agree(checkpoint, "torch_chunked", "reference", pixels=40)
    if find_spec("triton"):  # has no build for some platforms
        run_interpreted(str(FOLDER / "test_trained_model.py"), "-n", "0", TRAINED_CHECKPOINT=checkpoint)
