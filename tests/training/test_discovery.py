"""How nnU-Net finds the trainers: in fresh processes, as after `pip install`, without a variable being set."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.places import DATA

import nnunetv2_dsvm
from nnunetv2_dsvm import autoregister
from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES
from nnunetv2_dsvm.autoregister import DISCOVERY_DIRECTORY, append_discovery_directory

FIND = "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find; "
USERS_TRAINER = (
    "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
    "class {name}(nnUNetTrainer):\n    of_the_user = True\n"
)
NAMES = (DATA / "version_0_1_0" / "trainers.txt").read_text().split()
LENGTHS = (1, 5, 10, 20, 50, 100, 250, 500, 1000)
SINCE = [
    *("nnUNetTrainerDistilled", "nnUNetTrainerDistilled_projection", "nnUNetTrainerDistilled_progressive"),
    *(f"nnUNetTrainerDistilled_{epochs}epochs" for epochs in LENGTHS),
    *(f"nnUNetTrainer{dsvm}{name}" for name in RELATIVES for dsvm in ("", "DSVM_")),
    *(f"nnUNetTrainer{name}_150epochs" for name in ("DSVM", "Distilled", "VMUNet")),
    *(f"nnUNetTrainer{name}_150epochs_FixedOrientation" for name in ("DSVM", "VMUNet")),
    *(f"nnUNetTrainer{name}{of}_noScan" for name in ("DSVM", "VMUNet") for of in ("", "_50epochs", "_150epochs")),
    *(
        f"nnUNetTrainer{name}{of}_fine"
        for name in ("DSVM", "VMUNet")
        for of in ("", "_FixedOrientation", *(f"_{epochs}epochs" for epochs in (*LENGTHS, 150)))
    ),
]


def fresh_python(code: str, cwd: Path, **variables: str | None) -> str:
    """Runs code in a new interpreter; a variable of value None is unset there. Returns what it printed last."""
    environment = {**os.environ, "nnUNet_extTrainer": None, "NNUNETV2_DSVM_AUTOREGISTER": None, **variables}
    environment = {name: value for name, value in environment.items() if value is not None}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def test_processes_run_the_package_that_the_tests_import(tmp_path):
    """Also by `python -m pytest` in a checkout beside an installed package: see conftest.py."""
    assert fresh_python("import nnunetv2_dsvm as package; print(package.__file__)", tmp_path) == nnunetv2_dsvm.__file__


def test_every_trainer_of_0_1_0_and_those_since_are_found_in_a_fresh_process(tmp_path):
    """Folders of trained models name them; a new trainer belongs into `SINCE`."""
    names = sorted(NAMES + SINCE)
    code = FIND + (
        "import runpy; from pathlib import Path; from nnunetv2_dsvm.autoregister import DISCOVERY_DIRECTORY as folder;"
        " (shim,) = Path(folder).glob('*.py'); exported = runpy.run_path(str(shim));"
        f" found = [find(name).__name__ for name in {names}];"
        " print(found, sorted(n for n in exported if n.startswith('nnUNetTrainer')))"
    )
    assert fresh_python(code, tmp_path) == f"{names} {names}"


def test_a_users_trainers_keep_working_and_come_first(tmp_path):
    folders = []
    for folder, name in {"one": "nnUNetTrainerMine", "two": "nnUNetTrainerDSVM_kl"}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"my_{folder}.py").write_text(USERS_TRAINER.format(name=name))
        folders.append(str(tmp_path / folder))
    variable = os.pathsep.join(folders)
    code = FIND + (
        "import os; mine, ours, overridden = map(find, ['nnUNetTrainerMine', 'nnUNetTrainerDSVM',"
        " 'nnUNetTrainerDSVM_kl']); print(mine.of_the_user, ours.__module__, overridden.of_the_user,"
        " os.environ['nnUNet_extTrainer'])"
    )
    expected = f"True nnunetv2_dsvm.training.dsvm_trainer True {variable}{os.pathsep}{DISCOVERY_DIRECTORY}"
    assert fresh_python(code, tmp_path, nnUNet_extTrainer=variable) == expected


def test_a_users_variant_can_derive_from_ours(tmp_path):
    code = "from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM\n"
    (tmp_path / "my_variant.py").write_text(code + "class Mine(nnUNetTrainerDSVM):\n    lambda_projection = 1.0\n")
    code = FIND + "print(find('Mine').__mro__[1] is find('nnUNetTrainerDSVM'))"
    assert fresh_python(code, tmp_path, nnUNet_extTrainer=str(tmp_path)) == "True"


SET_AFTER_TORCH = """
import os, torch
os.environ["nnUNet_extTrainer"] = "/mine"
"""


def test_a_program_that_sets_the_variable_after_torch(tmp_path):
    code = (
        SET_AFTER_TORCH
        + FIND
        + """
def found():
    try:
        return find("nnUNetTrainerDSVM").__name__
    except RuntimeError:
        return None

answers = [found()]
import nnunetv2_dsvm
answers.append(found())
os.environ["nnUNet_extTrainer"] = "/other"
nnunetv2_dsvm.register_trainers()
answers.append(found())
print(answers, os.environ["nnUNet_extTrainer"].split(os.pathsep)[0])
"""
    )
    expected = "[None, 'nnUNetTrainerDSVM', 'nnUNetTrainerDSVM'] /other"
    assert fresh_python(code, tmp_path) == expected
    code = SET_AFTER_TORCH + "import nnunetv2_dsvm\nprint(os.environ['nnUNet_extTrainer'])"
    assert fresh_python(code, tmp_path, NNUNETV2_DSVM_AUTOREGISTER="0") == "/mine"


def test_the_switch_turns_it_off(tmp_path):
    code = "import os, torch; print(os.environ.get('nnUNet_extTrainer'))"
    assert fresh_python(code, tmp_path, NNUNETV2_DSVM_AUTOREGISTER="0") == "None"
    assert fresh_python(code, tmp_path) == DISCOVERY_DIRECTORY


def test_setting_the_variable_by_hand_works_with_the_switch_off(tmp_path):
    code = FIND + "print(find('nnUNetTrainerVMUNet').__name__)"
    variables = {"NNUNETV2_DSVM_AUTOREGISTER": "0", "nnUNet_extTrainer": DISCOVERY_DIRECTORY}
    assert fresh_python(code, tmp_path, **variables) == "nnUNetTrainerVMUNet"


def test_registering_imports_neither_torch_nor_nnunet(tmp_path):
    code = (
        "import sys; import nnunetv2_dsvm.autoregister as a; a.append_discovery_directory();"
        " print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'numpy', 'nnunetv2', 'matplotlib'}))"
    )
    assert fresh_python(code, tmp_path) == "[]"


def test_the_directory_holds_one_uniquely_named_module_and_is_no_package():
    modules = [path.name for path in Path(DISCOVERY_DIRECTORY).iterdir() if path.suffix == ".py"]
    assert modules == ["nnunetv2_dsvm_trainers.py"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, DISCOVERY_DIRECTORY),
        ("", DISCOVERY_DIRECTORY),
        ("/b:/a".replace(":", os.pathsep), f"/b:/a:{DISCOVERY_DIRECTORY}".replace(":", os.pathsep)),
        (f"{DISCOVERY_DIRECTORY}{os.pathsep}/a", f"{DISCOVERY_DIRECTORY}{os.pathsep}/a"),
        (os.pathsep, os.pathsep * 2 + DISCOVERY_DIRECTORY),
        ("\udcff\n*", f"\udcff\n*{os.pathsep}{DISCOVERY_DIRECTORY}"),
    ],
    ids=["unset", "empty", "two-directories", "listed-already", "separator-only", "not-utf-8"],
)
def test_value_of_the_variable(monkeypatch, before, after):
    monkeypatch.delenv("NNUNETV2_DSVM_AUTOREGISTER", raising=False)
    monkeypatch.setenv("nnUNet_extTrainer", before or "")
    if before is None:
        monkeypatch.delenv("nnUNet_extTrainer")
    append_discovery_directory()
    append_discovery_directory()
    assert os.environ["nnUNet_extTrainer"] == after


def test_the_users_own_value_is_known(tmp_path):
    """The doctor asks nnU-Net with that value: what this process has appended would hide a registration that fails."""
    listed_by_hand = [f"/a{os.pathsep}{DISCOVERY_DIRECTORY}", DISCOVERY_DIRECTORY]
    values = [*listed_by_hand, "", "/a", os.pathsep.join(["/a", "/b"])]
    code = f"""
import os
from nnunetv2_dsvm import autoregister
known = []
for os.environ["nnUNet_extTrainer"] in {values}:
    autoregister.append_discovery_directory()
    known.append(autoregister.listed_by_the_user())
print(known)
"""
    assert fresh_python(code, tmp_path, nnUNet_extTrainer=values[0]) == str(values)


def test_it_never_raises(monkeypatch):
    class Refusing(dict):
        def __setitem__(self, key, value):
            raise OSError("environment is full")

    monkeypatch.setattr(autoregister, "os", SimpleNamespace(environ=Refusing(), pathsep=":"))
    append_discovery_directory()


@pytest.mark.parametrize("first", ["torch", "nnunetv2_dsvm"])
def test_the_package_is_one_whichever_is_imported_first(tmp_path, first):
    code = (
        f"import {first}, torch, nnunetv2_dsvm as a, nnunetv2_dsvm.version, nnunetv2_dsvm.autoregister, sys;"
        " import nnunetv2_dsvm as b; from nnunetv2_dsvm import autoregister as c;"
        " print(a is b is sys.modules['nnunetv2_dsvm'], c is a.autoregister, a.version.__version__ == a.__version__)"
    )
    assert fresh_python(code, tmp_path) == "True True True"
