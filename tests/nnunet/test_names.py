"""What nnU-Net calls its files and folders is written in one room."""

import ast
import re
from pathlib import Path

import pytest

import nnunetv2_dsvm
from nnunetv2_dsvm.nnunet import names

PACKAGE = Path(nnunetv2_dsvm.__file__).parent
NNUNETS = re.compile(
    r"fold_.*|crossval_results.*|checkpoint_\w+\.pth|plans\.json|dataset\.json|splits_final(\.json)?|gt_segmentations"
    r"|dataset_fingerprint(\.json)?"
)
# A public signature in a room that knows no nnU-Net.
EXEMPT = {"architecture/vm_unet.py": {"checkpoint_final.pth"}}


def test_no_other_room_spells_them():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        name = path.relative_to(PACKAGE).as_posix()
        spelled = {text for text in texts if NNUNETS.fullmatch(text)} - EXEMPT.get(name, set())
        if spelled and not name.startswith("nnunet/"):
            found[name] = spelled
    assert not found


def test_the_folders_of_a_model(tmp_path):
    model = tmp_path / names.model_name("nnUNetTrainerDSVM", "nnUNetPlans", "2d")
    assert model.name == "nnUNetTrainerDSVM__nnUNetPlans__2d" and names.names_a_model(model)
    assert not names.names_a_model(tmp_path / "nnUNetTrainer__nnUNetPlans")
    for fold in ("all", "10", 2):
        names.validation_folder(model, fold).mkdir(parents=True)
    (model / "._fold_3").mkdir()
    (model / "fold_4").touch()
    assert names.folds_of_model(model) == ["2", "10", "all"]
    assert [path.name for path in names.fold_folders(model)] == ["fold_10", "fold_2", "fold_all"]


@pytest.mark.parametrize(
    ("folds", "folder"), [(["3"], "fold_3/validation"), (["0", "1", "4"], "crossval_results_folds_0_1_4")]
)
def test_where_metrics_are_written(folds, folder):
    assert names.folder_of_metrics(Path("model"), folds) == Path("model", folder)
