"""examples/isic2018.sh and examples/synapse.sh as a user runs them, on miniatures, each command in its own process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dataset_miniatures import isic_official, transunet
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"

TRAINER = """
from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.training.variants import nnUNetTrainerDSVM


class nnUNetTrainerDSVM_example(nnUNetTrainerDSVM):
    default_num_epochs = 1

    @staticmethod
    def build_network_architecture(plans_manager, configuration_manager, num_input_channels, num_output_channels,
                                   enable_deep_supervision=True):
        small = {"dims": [8, 16, 32], "encoder_depths": [1, 1, 1], "decoder_depths": [1, 1, 1], "d_state": 2}
        return VMUNet(num_input_channels, num_output_channels, deep_supervision=enable_deep_supervision, **small)

    def initialize(self):
        self.configuration_manager.configuration["batch_size"] = 2
        super().initialize()
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 1
"""

# nnU-Net's command; threads instead of spawned processes, and 10⁵ instead of 10⁸ voxels drawn for the fingerprint.
PLAN = f"""#!{sys.executable}
import sys

sys.path.append({str(Path(__file__).parent)!r})
from dataset_miniatures import threads_for_processes
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry

original = DatasetFingerprintExtractor.__init__


def few_samples(self, *arguments, **options):
    original(self, *arguments, **options)
    self.num_foreground_voxels_for_intensitystats = 1e5


DatasetFingerprintExtractor.__init__ = few_samples
with threads_for_processes():
    plan_and_preprocess_entry()
"""
# The command, with threads for nnU-Net's check.
DATASET = f"""#!{sys.executable}
import sys

sys.path.append({str(Path(__file__).parent)!r})
from dataset_miniatures import threads_for_processes
from nnunetv2_dsvm.cli.main import main

with threads_for_processes():
    sys.exit(main())
"""
# nnU-Net's command; six processes that each import torch are too many for two pictures.
PREDICT = f"""#!/bin/sh
exec {Path(sys.executable).parent / "nnUNetv2_predict"} "$@" -npp 0 -nps 0
"""


@pytest.fixture
def example(folders):
    """example(name, *arguments, **variables): runs it and returns what it printed."""
    (folders / "trainers").mkdir()
    (folders / "trainers" / "example_trainer.py").write_text(TRAINER)
    (folders / "bin").mkdir()
    for name, text in (("dsvm", DATASET), ("plan_and_preprocess", PLAN), ("predict", PREDICT)):
        command = folders / "bin" / f"nnUNetv2_{name}"
        command.write_text(text)
        command.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(folders / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "nnUNet_extTrainer": str(folders / "trainers"),
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "1",
        "OMP_NUM_THREADS": "1",
        "nnUNet_compile": "f",
        "DEVICE": "cpu",
        "TRAINER": "nnUNetTrainerDSVM_example",
    }

    def run(name: str, *arguments: object, **variables: str) -> str:
        done = subprocess.run(
            ["bash", str(EXAMPLES / name), *map(str, arguments)],
            env={**environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    return run


@pytest.mark.slow
def test_isic2018(example, folders):
    source = isic_official(folders / "download", 2018)
    printed = example("isic2018.sh", source, folders / "predicted", SIZE="32")
    assert "verify_dataset_integrity Done" in printed
    predicted = sorted((folders / "predicted").glob("*.png"))
    assert [path.stem for path in predicted] == ["ISIC_0000007", "ISIC_0000008"]
    for path in predicted:
        label = np.asarray(Image.open(path))
        assert label.shape == (32, 32) and set(np.unique(label)) <= {0, 1}
    validated = folders / "results" / "Dataset018_ISIC2018" / "nnUNetTrainerDSVM_example__nnUNetPlans__2d" / "fold_0"
    assert len(list((validated / "validation").glob("*.png"))) == 2
    assert (validated / "validation" / "summary.json").is_file()


@pytest.mark.slow
def test_synapse(example, folders):
    example("synapse.sh", transunet(folders / "download"))
    data = folders / "preprocessed" / "Dataset005_Synapse" / "nnUNetPlans_2d"
    assert len(list(data.glob("case*.pkl"))) == 6
