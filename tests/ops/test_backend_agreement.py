"""A model that was trained with one backend of the scan predicts the same with every other."""

import os

import pytest
from backend_agreement import disagreements, probabilities
from helpers.short_trainers import ShortDSVM
from interpreter import assert_checks_pass

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
    both = [probabilities(checkpoint, backend, pixels=40) for backend in ("torch_chunked", "reference")]
    for name, (value, most) in disagreements(*both).items():
        assert value <= most, name
    pytest.importorskip("triton", reason="Triton has no build for this platform")
    assert_checks_pass("backend_agreement.py", checkpoint, least=3)
