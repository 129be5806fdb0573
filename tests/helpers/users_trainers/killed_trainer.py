"""A user's trainer, found through nnUNet_extTrainer, whose process kills itself where KILL_AT says (with KILL_WITH)."""

import builtins
import json
import os
import signal
import time
from pathlib import Path

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.logging.nnunet_logger import LocalLogger

from nnunetv2_dsvm.training.checkpoints import files
from nnunetv2_dsvm.training.layers import distilled
from nnunetv2_dsvm.training.variants import nnUNetTrainerDSVM_FixedOrientation

# Drawing takes longer than training here.
LocalLogger.plot_progress_png = distilled.plot_distillation_progress = lambda *arguments: None


def kill_at(point: str) -> None:
    if os.environ.get("KILL_AT") == point:
        os.kill(os.getpid(), int(os.environ.get("KILL_WITH", signal.SIGKILL)))


class HalfAFile:
    """A file that is on the disk up to its 30000th byte when the process is killed."""

    def __init__(self, file):
        self.file = file

    def write(self, data):
        if self.file.tell() + len(data) > 30_000:
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.file.write(data)

    def __enter__(self):
        self.file.__enter__()
        return self

    def __exit__(self, *error):
        return self.file.__exit__(*error)

    def __getattr__(self, name):
        return getattr(self.file, name)


class nnUNetTrainerDSVM_killed(nnUNetTrainerDSVM_FixedOrientation):
    """Three epochs of two steps, a checkpoint every SAVE_EVERY; the losses are lines of losses.jsonl.

    KILL_AT is "step EPOCH STEP", "validation EPOCH", "half NAME EPOCH" (in the middle of writing a checkpoint),
    "unmoved NAME EPOCH" (when it is written, but not at its place) or "predicting CASE" (in the final validation, when
    half of the prediction of the case before is written).
    """

    default_num_epochs = 3

    def initialize(self):
        super().initialize()
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 1
        self.save_every = int(os.environ["SAVE_EVERY"])
        self.step = 0

    def on_epoch_start(self):
        super().on_epoch_start()
        self.step = 0

    def train_step(self, batch):
        result = super().train_step(batch)
        with open(os.path.join(self.output_folder, "losses.jsonl"), "a") as file:
            file.write(json.dumps([self.current_epoch, self.step, float(result["loss"])]) + "\n")
        kill_at(f"step {self.current_epoch} {self.step}")
        self.step += 1
        return result

    def validation_step(self, batch):
        kill_at(f"validation {self.current_epoch}")
        return super().validation_step(batch)

    def save_checkpoint(self, filename):
        name = f"{Path(filename).stem} {self.current_epoch}"
        replace = os.replace

        def open_half(*arguments):
            file = builtins.open(*arguments)
            return HalfAFile(file) if os.environ.get("KILL_AT") == f"half {name}" else file

        def unmoved(*arguments):
            kill_at(f"unmoved {name}")
            replace(*arguments)

        files.open, os.replace = open_half, unmoved
        try:
            super().save_checkpoint(filename)
        finally:
            os.replace = replace

    def perform_actual_validation(self, save_probabilities=False):
        predict, seen = nnUNetPredictor.predict_sliding_window_return_logits, []

        def predict_or_die(predictor, image):
            if os.environ.get("KILL_AT") == f"predicting {len(seen)}":
                half_a_prediction(Path(self.output_folder) / "validation")
                os.kill(os.getpid(), signal.SIGKILL)
            seen.append(image)
            return predict(predictor, image)

        nnUNetPredictor.predict_sliding_window_return_logits = predict_or_die
        super().perform_actual_validation(save_probabilities)


def half_a_prediction(folder: Path) -> None:
    """Waits for the first prediction and leaves its first half, as a process that is killed while writing does."""
    while not (written := [path for path in folder.glob("*.nii.gz") if path.stat().st_size]):
        time.sleep(0.1)
    time.sleep(0.5)  # let the writer finish
    written[0].write_bytes(written[0].read_bytes()[: written[0].stat().st_size // 2])
