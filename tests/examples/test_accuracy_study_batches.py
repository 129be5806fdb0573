"""The accuracy study: batches that are augmented once and read by all trainings that share them."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from helpers.places import STUDY
from helpers.tiny_dataset import PLANS

from nnunetv2_dsvm.cluster.locks import Held, held
from nnunetv2_dsvm.cluster.run_folder import State
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.training.seeding import SEED_VARIABLE, seed_from_environment

pytestmark = pytest.mark.usefixtures("study_on_path")


def loader():
    """Batches that depend on the state of both generators, as nnU-Net's do."""
    while True:
        labels = torch.from_numpy(np.random.randint(0, 3, (2, 1, 12, 8))).short()
        yield {"data": torch.randn(2, 3, 12, 8), "target": labels}


@pytest.mark.parametrize("scales", [None, [[1, 1], [0.5, 0.5], [0.25, 0.5]]])
def test_what_is_recorded_is_what_the_loader_brings_and_is_read_from_any_place(scales, tmp_path):
    import recorded_batches as batches

    folder = tmp_path / "a-stream"
    for part in (1, 0):  # in any order: each has a seed of its own
        batches.record(loader(), folder, batches.TRAINING, part)
    (first,) = folder.glob("training_00000.pt")
    before = first.read_bytes()
    np.random.seed(7), torch.manual_seed(7)  # of another process
    brought, source = [], loader()
    batches.record((brought.append(batch) or batch for batch in source), folder, batches.TRAINING, 0)
    assert first.read_bytes() == before and {path.suffix for path in folder.iterdir()} == {".pt"}

    reader = batches.RecordedBatches(folder, batches.TRAINING, 48, scales)
    for batch in brought[48:]:
        read = next(reader)
        assert read["data"].dtype == torch.float32 and torch.equal(read["data"], batch["data"].half().float())
        if scales is None:
            assert read["target"].dtype == torch.int16 and torch.equal(read["target"], batch["target"])
            continue
        of_each = [DownsampleSegForDSTransform(scales)(segmentation=one)["segmentation"] for one in batch["target"]]
        for target, wanted in zip(read["target"], zip(*of_each, strict=True), strict=True):
            assert target.dtype == torch.int16 and torch.equal(target, torch.stack(wanted))
    second = torch.load(folder / "training_00001.pt")
    assert torch.equal(next(reader)["data"], second["images"][0].float())


def test_a_reader_waits_for_who_writes_and_for_nobody_else(tmp_path, monkeypatch):
    import recorded_batches as batches

    monkeypatch.setattr(batches, "PATIENCE_S", 0.1)
    reader = batches.RecordedBatches(tmp_path / "a-stream", batches.VALIDATION, 0, None)
    with pytest.raises(UserError, match="nobody writes .*validation_00000.pt: batches.log"):
        next(reader)
    with held(tmp_path / batches.LOCK, "the folder"):
        read = []
        thread = threading.Thread(target=lambda: read.append(next(reader)))
        thread.start()
        time.sleep(0.4)
        assert thread.is_alive()
        batches.record(loader(), tmp_path / "a-stream", batches.VALIDATION, 0)
        thread.join(10)
    assert len(read) == 1


def test_a_call_does_not_begin_where_another_one_writes_batches(tmp_path):
    import sharing
    from recorded_batches import LOCK
    from study_run import StudyRun

    run = StudyRun(tmp_path / "study", STUDY / "plan.json", tmp_path / "csv", "cpu")
    refused = pytest.raises(Held, match="the folder of batches .* is in the hands of")
    with held(tmp_path / LOCK, "the folder"), refused, sharing.shared_batches(run, tmp_path, 1):
        pytest.fail("its trainings would wait for ever")


@pytest.mark.parametrize("shared", [True, False])
def test_predictions_are_mirrored_as_nnunets_own_whoever_brings_the_batches(shared, copied_dataset, monkeypatch):
    """nnU-Net sets the axes of inference where it makes its loaders."""
    import accuracy_study_trainers as study
    from nnunetv2.run.run_training import get_trainer_from_args

    for variable, value in copied_dataset.environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_extTrainer", str(STUDY / "trainers"))
    monkeypatch.delenv(study.BATCHES, raising=False)
    if shared:
        monkeypatch.setenv(study.BATCHES, str(copied_dataset.root / "batches"))
    trainers = "nnUNetTrainerDSVM_study", "nnUNetTrainer_ownLoaders_study"
    for name in trainers:
        trainer = get_trainer_from_args(copied_dataset.name, "2d", 0, name, PLANS, device=torch.device("cpu"))
        trainer._set_batch_size_and_oversample()
        trainer.enable_deep_supervision = False
        training, _ = trainer.get_dataloaders()
        assert (type(training).__name__ == "RecordedBatches") is (shared and name == trainers[0])
        assert trainer.inference_allowed_mirroring_axes == (0, 1)


@pytest.mark.parametrize("fails", [False, True])
def test_the_validation_is_done_without_mirroring_too_and_nnunets_own_stays(fails, tmp_path):
    import accuracy_study_trainers as study

    class Validated:
        output_folder, inference_allowed_mirroring_axes = str(tmp_path), None  # as an old checkpoint has it

        def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
            self.inference_allowed_mirroring_axes = (0, 1)

        def perform_actual_validation(self, save_probabilities):
            folder = Path(self.output_folder, "validation")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "axes").write_text(f"{self.inference_allowed_mirroring_axes} {save_probabilities}")
            if fails:
                raise RuntimeError("of the prediction")

    trainer = type("Trainer", (study.Study, Validated), {})()
    for _ in range(2):  # the second time it finds what the first has left
        with pytest.raises(RuntimeError, match="of the prediction") if fails else contextlib.nullcontext():
            trainer.perform_actual_validation(save_probabilities=True)
        assert (trainer.output_folder, trainer.inference_allowed_mirroring_axes) == (str(tmp_path), (0, 1))
        assert (tmp_path / study.UNMIRRORED / "validation" / "axes").read_text() == "None True"
        assert (tmp_path / "validation").is_dir() is not fails  # whose summary says that a training has ended
        assert fails or (tmp_path / "validation" / "axes").read_text() == "(0, 1) True"


@pytest.mark.parametrize(
    ("folder", "shares", "loaders"), [("batches", True, "shared"), ("batches", False, "3"), (None, True, "3")]
)
def test_a_training_says_itself_where_its_batches_came_from(folder, shares, loaders, tmp_path, monkeypatch):
    """Not who measures it, which may be another call."""
    import accuracy_study_trainers as study

    class Ended:
        device, network, output_folder = torch.device("cpu"), torch.nn.Linear(1, 1), tmp_path

        def on_train_end(self):
            assert (tmp_path / study.FACTS).is_file()  # before the last checkpoint is

    monkeypatch.setenv("nnUNet_n_proc_DA", "3")
    monkeypatch.delenv(study.BATCHES, raising=False)
    if folder is not None:
        monkeypatch.setenv(study.BATCHES, folder)
    type("Trainer", (study.Study, Ended), {"shares_batches": shares})().on_train_end()
    assert json.loads((tmp_path / study.FACTS).read_text())["loaders"] == loaders


def test_trainings_share_what_is_equal_for_them_and_first_epochs_come_first(plan, tmp_path, monkeypatch):
    import record
    from recorded_batches import STREAMS, TRAINING, VALIDATION, stream_of

    made = []

    def trainer_from(dataset, configuration, fold, trainer, plans, device):
        """As far as its batches are named by it."""
        made.append((dataset, fold, trainer))
        configuration = SimpleNamespace(data_identifier="data_2d", patch_size=[8, 4], batch_size=3)
        return SimpleNamespace(
            configuration_manager=configuration, plans_manager=SimpleNamespace(dataset_name=dataset),
            fold=fold, num_iterations_per_epoch=250, num_val_iterations_per_epoch=50, seed=seed_from_environment(),
            shares_batches=trainer != "apart",
        )  # fmt: skip

    monkeypatch.setenv(SEED_VARIABLE, "7")
    monkeypatch.setattr(record, "get_trainer_from_args", trainer_from)
    record.trainer_of.cache_clear()
    base = plan.trainings({})[0]._replace(fold=2, seed=1, epochs=2)
    others = [base._replace(trainer="another", epochs=4), base._replace(seed=2), base._replace(fold=3)]
    assert stream_of(record.trainer_of(base)) == f"{base.dataset}-data_2d-8x4-b3-f2-s1"
    parts = record.parts_of([base, *others], tmp_path)
    assert all(part.stream.match(STREAMS) for part in parts)
    assert record.parts_of([base._replace(trainer="apart", fold=4)], tmp_path) == [] and made.pop()[-1] == "apart"
    assert record.parts_of([base, *others], tmp_path) == parts and len(made) == 1 + 4  # trainers are made once
    last = record.parts_of([base, others[1]], tmp_path)  # of two seeds, looked at again and again
    assert record.parts_of([base, others[1]], tmp_path) == last
    assert {part.stream.name[-2:] for part in last if part.training.seed == 1} == {"s1"}
    record.trainer_of.cache_clear()
    epochs = [part.number * 50 / {TRAINING: 250, VALIDATION: 50}[part.kind] for part in parts]
    assert epochs == sorted(epochs)  # of all streams at a time
    own = [part for part in parts if part.stream.name.endswith("f2-s1")]
    assert {part.stream.name[-5:] for part in parts} == {"f2-s1", "f2-s2", "f3-s1"}
    assert len(parts) == len({part[1:] for part in parts}) == (20 + 4) + 2 * (10 + 2)
    of_base = [(part.kind, part.number) for part in own[:12]]
    assert sorted(of_base) == [(TRAINING, n) for n in range(10)] + [(VALIDATION, n) for n in range(2)]


def test_batches_are_kept_for_trainings_that_run_and_for_the_next_ones(plan, tmp_path):
    import record
    from study_run import StudyRun

    run = StudyRun(tmp_path / "study", STUDY / "plan.json", tmp_path / "csv", "cpu")
    names = list(run.trainings)
    (run.path / "steps").mkdir(parents=True)
    for name, state in ((names[0], "running"), (names[1], "failed"), (names[9], "running"), (names[8], "interrupted")):
        run.write_state(name, State(state, (), 0.0))
    running, others = record.next_trainings(run, 3)
    assert [t.name for t in running] == [names[0], names[9]] and [t.name for t in others] == names[2:4]


KILLED = """
import os, signal, sys
import record

def killed(part):
    os.kill(os.getpid(), signal.SIGKILL)

record.next_trainings = lambda run, ahead: ([], [])
stream = record.Path(sys.argv[5]) / "Dataset1_A-b1-f0-s1"
record.parts_of = lambda trainings, folder: [record.Part(None, stream, "training", number) for number in range(2)]
record.record_part = killed
sys.exit(record.status_of(record.main))
"""


def test_one_killed_process_ends_all_that_write_and_its_part_is_not_waited_for(tmp_path):
    batches = tmp_path / "batches"
    for old in ("Dataset1_A-b1-f0-s1/.partial_killed", "Dataset1_A-b1-f0-s2", "somebody's own"):
        (batches / old).mkdir(parents=True)
    path = os.pathsep.join([str(STUDY), str(STUDY / "trainers")])
    arguments = [tmp_path / "study", STUDY / "plan.json", tmp_path / "csv", "", batches, "2"]
    command, environment = [sys.executable, "-c", KILLED, *arguments], {**os.environ, "PYTHONPATH": path}
    ended = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=60)
    assert ended.returncode == 1 and ended.stderr.startswith("a process that augments batches was killed")
    left = {str(found.relative_to(batches)) for found in batches.rglob("*")}
    assert left == {"Dataset1_A-b1-f0-s1", "somebody's own"}  # only streams of ours are removed
