"""`nnUNetv2_dsvm trainers`: what nnU-Net's own look-up takes, and by name what keeps it from more."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nnunetv2
import pytest
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunetv2_dsvm.autoregister import DISCOVERY_DIRECTORY, VARIABLE
from nnunetv2_dsvm.cli.commands import trainers as command
from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.diagnostics import subprocess_probe, trainer_list
from nnunetv2_dsvm.diagnostics.subprocess_probe import ProbeFailed, run_probe_file
from nnunetv2_dsvm.diagnostics.trainer_list import list_trainers

PROBE = "nnunetv2_dsvm.diagnostics.trainer_list_probe"

NNUNETS = "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
PLAIN = NNUNETS + "class {name}(nnUNetTrainer):\n    '''{name}, in one line.\n\n    And more.'''\n"
OURS = "from nnunetv2_dsvm.training.dsvm_trainer import nnUNetTrainerDSVM\n"
FILES = {
    "one/first.py": OURS
    + "print('noise')\nAlias = nnUNetTrainerDSVM\n"
    + "class nnUNetTrainerDSVM_mine(nnUNetTrainerDSVM):\n    lambda_projection = 0.3",
    "one/json.py": PLAIN.format(name="nnUNetTrainerUnread"),
    "one/names.py": PLAIN.format(name="_Private")
    + "import abc\nclass Base(nnUNetTrainer, abc.ABC):\n    @abc.abstractmethod\n    def hook(self): ...\n"
    + "class Mixin: ...",
    "one/plain.py": PLAIN.format(name="nnUNetTrainerPlain") + "class nnUNetTrainerAdam(nnUNetTrainer): ...",
    "one/parts/__init__.py": "",
    "one/parts/deep.py": PLAIN.format(name="nnUNetTrainerDeep"),
    "two/again.py": PLAIN.format(name="nnUNetTrainerPlain"),
    "two/broken.py": "import there_is_no_such_package",
    "two/curious.py": "input('Which one? ')",
    "two/ends.py": "raise SystemExit(0)",
    "two/interrupted.py": "raise KeyboardInterrupt",
    "two/late.py": PLAIN.format(name="nnUNetTrainerLate"),
    "two/vague.py": OURS + "class Vague(nnUNetTrainerDSVM):\n    lambda_projection = 'much'",
    "site/nnunetv2/training/nnUNetTrainer/variants/within.py": PLAIN.format(name="nnUNetTrainerWithin"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With two folders of the user's, and a copy of nnU-Net into whose own folder the user has put a trainer."""
    folder = tmp_path_factory.mktemp("trainers")
    package = Path(nnunetv2.__path__[0])
    for source in (package, *package.parent.glob("nnunetv2-*.dist-info")):
        shutil.copytree(source, folder / "site" / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(VARIABLE, os.pathsep.join(str(folder / name) for name in ("one", "two", "none")))
        patched.setenv("PYTHONPATH", os.pathsep.join([str(folder / "site"), os.environ["PYTHONPATH"]]))
        return list_trainers()


def test_ours_and_the_users_trainers_are_listed_where_they_lie(found, folder):
    listed = [(Path(t.place).name, t.name) for t in found.trainers]
    ours = [name for place, name in listed if place == "nnunetv2_dsvm"]
    assert listed[: len(ours)] == [("nnunetv2_dsvm", name) for name in ours]
    assert {"nnUNetTrainerDSVM", "nnUNetTrainerVMUNet", "nnUNetTrainerDSVM_5epochs_quickstart"} < set(ours)
    assert ours.index("nnUNetTrainerDSVM_5epochs") < ours.index("nnUNetTrainerDSVM_10epochs")
    assert listed[len(ours) :] == [
        ("nnUNetTrainer", "nnUNetTrainerWithin"),
        ("one", "nnUNetTrainerAdam"),
        ("one", "nnUNetTrainerDSVM_mine"),
        ("one", "nnUNetTrainerDeep"),
        ("one", "nnUNetTrainerPlain"),
        ("two", "Vague"),
        ("two", "nnUNetTrainerLate"),
        ("two", "nnUNetTrainerPlain"),
    ]
    of = {trainer.name: trainer for trainer in found.trainers}
    assert of["nnUNetTrainerDSVM_mine"].short["terms"] == "projection 0.3, progressive 0.1"
    assert (of["nnUNetTrainerDeep"].short, of["nnUNetTrainerDeep"].bases) == (None, ["nnUNetTrainer"])
    assert of["nnUNetTrainerDeep"].summary == "nnUNetTrainerDeep, in one line."
    assert of["nnUNetTrainerDSVM_mine"].summary == ""


def test_nnunet_takes_what_is_said(found, folder, monkeypatch):
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(folder / "one"), str(folder / "two"), DISCOVERY_DIRECTORY]))
    taken = []
    for trainer in found.trainers:
        if trainer.name == "nnUNetTrainerWithin" or "epochs" in trainer.name:
            continue  # the copy of nnU-Net is not this process's; many of one kind
        if trainer.stopped_by and not trainer.hidden_by:
            with pytest.raises(ModuleNotFoundError, match="there_is_no_such_package"):
                recursive_find_trainer_class_by_name(trainer.name)
            continue
        module = recursive_find_trainer_class_by_name(trainer.name).__module__
        taken.append((trainer.name, module, Path(trainer.hidden_by or trainer.file)))
    assert {("nnUNetTrainerPlain", "plain"), ("nnUNetTrainerDSVM_mine", "first")} < {row[:2] for row in taken}
    assert all(module.split(".")[-1] == file.stem for _, module, file in taken)
    assert {t.name for t in found.trainers if t.hidden_by} == {"nnUNetTrainerAdam", "nnUNetTrainerPlain"}


def test_broken_modules_are_named_and_hide_none(found, folder):
    assert [(Path(module.file).relative_to(folder).as_posix(), module.stops) for module in found.broken] == [
        ("one/json.py", False),
        ("two/broken.py", True),
        ("two/curious.py", True),
        ("two/ends.py", True),
        ("two/interrupted.py", True),
        ("two/vague.py", False),
    ]
    errors = [module.error for module in found.broken]
    assert f"another module json, {json.__file__}" in errors[0]
    assert errors[1] == "ModuleNotFoundError: No module named 'there_is_no_such_package'"
    assert errors[2].startswith("EOFError") and errors[3:5] == ["SystemExit: 0", "KeyboardInterrupt"]
    assert errors[5].startswith("Vague: ValueError: ")
    reached = {trainer.name for trainer in found.trainers if not trainer.stopped_by}
    assert {"nnUNetTrainerDSVM", "nnUNetTrainerDSVM_mine", "nnUNetTrainerWithin"} < reached
    assert not reached & {"nnUNetTrainerLate", "nnUNetTrainerVMUNet"}
    assert "does not exist" in found.folders[0].detail


def test_the_command(found, folder, monkeypatch, capsys):
    monkeypatch.setattr(command, "list_trainers", lambda: found)
    assert main(["trainers", "plain"]) == 1
    lines = capsys.readouterr().out.splitlines()
    heading, *rows = [line for line in lines if line.startswith(("-tr", "nnUNetTrainerPlain"))]
    assert heading.split() == ["-tr", "network", "2D/3D", "terms", "optimiser", "epochs"]
    assert "extends nnUNetTrainer" in rows[0] and rows[0].endswith("nnUNetTrainerPlain, in one line.")
    assert rows[-1].endswith(f"not reached: nnU-Net takes the one in {folder / 'one' / 'plain.py'}")
    assert f"{folder / 'two' / 'broken.py'}: ModuleNotFoundError: No module named 'there_is_no_such_package'" in lines
    assert main(["trainers", "DSVM_mine", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert [t["name"] for t in answer["trainers"]] == ["nnUNetTrainerDSVM_mine"] and len(answer["broken"]) == 6


def test_nothing_broken_gives_status_0(found, monkeypatch, capsys):
    monkeypatch.setattr(command, "list_trainers", lambda: replace(found, broken=[]))
    assert main(["trainers", "nothing like it"]) == 0
    assert f"None of {len(found.trainers)} trainers has 'nothing like it'" in capsys.readouterr().out


def test_a_module_that_ends_the_process_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "crash.py").write_text("import os\nos._exit(3)")
    code = f"from {PROBE} import entries_of; entries_of({str(tmp_path)!r}, '', set())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8")
    sentence = done.stderr.splitlines()[-1]
    assert sentence == f"the process ended while it imported {tmp_path / 'crash.py'}"

    def end(*_, **__):
        raise ProbeFailed(sentence)

    monkeypatch.setattr(trainer_list, "run_probe_file", end)
    assert main(["trainers"]) == 1
    assert f"nnUNetv2_dsvm trainers: no list of trainers: {sentence}" in capsys.readouterr().err


def test_a_module_that_does_not_end_is_named(tmp_path, monkeypatch):
    (tmp_path / "probe.py").write_text(
        "import sys, time\nprint('it imported endless.py', file=sys.stderr, flush=True)\ntime.sleep(60)"
    )
    monkeypatch.setattr(subprocess_probe, "TIMEOUT_S", 5)
    with pytest.raises(ProbeFailed, match="^no answer within 5 s; the last that it printed: it imported endless.py$"):
        run_probe_file(tmp_path / "probe.py", variables={})
