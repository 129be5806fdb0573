"""What nnU-Net reads only in its last minutes, or at random, is missed before the first epoch."""

import json
import shutil

import pytest
from helpers.litter import scatter
from helpers.short_trainers import ShortDSVM, ShortVMUNet

from nnunetv2_dsvm.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures", "one_epoch")


def splits(dataset, validation):
    """Splits of one fold whose training cases are there."""
    content = [{"train": ["case_003", "case_004"], "val": validation}]
    (dataset.preprocessed / "splits_final.json").write_text(json.dumps(content))


@pytest.fixture
def refused(make_on, copied_dataset):
    """refused(message, trainer, fold, step): the training, or another step of it, stops before its first epoch."""

    def run(message, trainer_class=ShortVMUNet, fold=0, step="run_training"):
        trainer = make_on(copied_dataset, trainer_class, fold=fold)
        trainer.initialize()
        trainer.on_epoch_start = trainer.network.forward = None  # nothing is trained or predicted
        with pytest.raises(UserError, match=message):
            getattr(trainer, step)()

    return run


@pytest.mark.parametrize("trainer_class", [ShortVMUNet, ShortDSVM])
@pytest.mark.parametrize("step", ["on_train_start", "perform_actual_validation"])
def test_missing_ground_truth_is_named_before_the_first_epoch(refused, copied_dataset, trainer_class, step):
    splits(copied_dataset, ["case_000", "case_001", "case_002"])
    truth = copied_dataset.preprocessed / "gt_segmentations"
    (truth / "case_000.nii.gz").unlink()
    (truth / "case_002.nii.gz").write_bytes(b"")
    (truth / "case_003.nii.gz").unlink()  # of the training: not needed
    message = r"gt_segmentations, where case_000, case_002 \(2 of 3 .*\) are missing or empty.*labelsTr of Dataset901"
    refused(message, trainer_class, step=step)


def test_the_whole_folder_may_be_missing_and_fold_all_needs_every_case(refused, copied_dataset):
    shutil.rmtree(copied_dataset.preprocessed / "gt_segmentations")
    refused(r"case_000, case_001, case_002, case_003, case_004 \(5 of 5", fold="all")


@pytest.mark.parametrize("part", ["train", "val"])
def test_cases_of_the_fold_that_are_not_preprocessed_are_named(refused, copied_dataset, part):
    split = {"train": ["case_003", "case_004"], "val": ["case_000"]}
    split[part] = [*split[part], "case_017"]
    (copied_dataset.preprocessed / "splits_final.json").write_text(json.dumps([split]))
    refused(r"case_017 is in this fold of .*splits_final.json, but not preprocessed in .*nnUNetPlans_2d. Nothing")


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("nnUNetPlans_2d", "no preprocessed data in .*nnUNetv2_preprocess -d 901 -plans_name tinyPlans -c 2d"),
        ("dataset_fingerprint.json", "no dataset_fingerprint.json in .*nnUNetv2_extract_fingerprint -d 901"),
    ],
)
def test_a_dataset_that_is_not_preprocessed_is_named(make_on, copied_dataset, removed, message):
    path = copied_dataset.preprocessed / removed
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=message):
        make_on(copied_dataset, ShortVMUNet).on_train_start()


@pytest.mark.parametrize("fold", [0, 7, "all"])
def test_litter_among_preprocessed_cases_is_passed_over(make_on, copied_dataset, fold):
    """nnU-Net stops at .DS_Store, and takes ._case_000.b2nd for a case: other splits, and images that are none."""
    folders = [copied_dataset.preprocessed / name for name in ("nnUNetPlans_2d", "gt_segmentations")]
    cases = {path.name.removesuffix(".pkl") for path in folders[0].glob("case_*.pkl")}
    for folder in folders:
        scatter(folder)
    (copied_dataset.preprocessed / "splits_final.json").unlink(missing_ok=True)
    trainer = make_on(copied_dataset, ShortVMUNet, fold=fold)
    trainer.initialize()
    assert {case for dataset in trainer.get_tr_and_val_datasets() for case in dataset.identifiers} == cases
