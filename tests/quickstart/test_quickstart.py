"""`nnUNetv2_dsvm quickstart --synthetic`, start to end through nnU-Net's real commands, interrupted once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [str(Path(sys.executable).parent / "nnUNetv2_dsvm"), "quickstart", "--synthetic", "--epochs", "1"]

TRAINER = "nnUNetTrainerDSVM_1epochs_quickstart"
# A user's trainer of the same name, which nnU-Net finds before ours: a tenth of the steps, and threads in place of
# processes that each import torch.
SHORTER = f"""
from helpers.quick_nnunet import threads_for_processes
from nnunetv2_dsvm.quickstart import trainers

threads = threads_for_processes()
threads.__enter__()


class {TRAINER}(trainers.{TRAINER}):
    def initialize(self):
        super().initialize()
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 25, 5
"""


@pytest.mark.slow
def test_quickstart_resumes_and_ends_with_a_table_and_a_picture(tmp_path):
    output, own = tmp_path / "output", tmp_path / "own"
    own.mkdir()
    environment = {
        **os.environ,
        **{name: str(own) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")},
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "1",
    }
    options = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
    command = [*COMMAND, "--output", str(output)]

    # With its own trainer. Ctrl-C must reach it also where pytest was started in the background and ignores it.
    process = subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options)
    log = output / "logs" / "nnUNetv2_train.log"
    while process.poll() is None and not (log.exists() and "Epoch 0" in log.read_text(encoding="utf-8")):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 130, shown
    assert "To go on where it stopped: nnUNetv2_dsvm quickstart" in shown

    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "shorter.py").write_text(SHORTER)
    environment["nnUNet_extTrainer"] = str(tmp_path / "trainers")
    shown = subprocess.run(command, **options).stdout
    assert f"Found class {TRAINER} in shorter" in shown, shown
    assert "plan and preprocess (done before)" in shown and "$ nnUNetv2_plan_and_preprocess" not in shown
    for name in ("train", "predict", "evaluate_folder"):
        assert f"$ nnUNetv2_{name} " in shown, shown
    result = json.loads((output / "result.json").read_text())
    assert [r["title"] for r in result["results"]] == ["DSVM-UNet", "copied slice", "best copied slice"]
    assert set(result["results"][0]["dice"]) == {"liver", "spleen", "aorta", "vertebrae"}
    assert (output / "result.md").read_text(encoding="utf-8") in shown
    assert (output / "overlay.png").stat().st_size > 10_000
    assert list((output / "nnUNet_results").rglob("fold_0/checkpoint_final.pth"))
    assert not list((output / "nnUNet_preprocessed").rglob("*.b2nd"))  # removed without --keep
    assert list(own.iterdir()) == []

    again = subprocess.run(command, **options)
    assert again.returncode == 0 and "$ nnUNetv2" not in again.stdout
