"""Every command tries the places it will write to before its long work, refuses in one sentence and leaves nothing.

The inputs do not exist: a command that looked at them first would speak of them instead.
"""

import os
import tempfile
from pathlib import Path

import pytest

from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.places_to_write import check_file_place, check_folder_place

FILES = {
    "benchmark": ["--device", "cpu", "--json"],
    "export": ["model", "-f", "0", "-o"],
    "export_replacing": ["model", "-f", "0", "--overwrite", "-o"],
    "convert-weights": ["weights.pth", "-o"],
    "convert-weights_replacing": ["weights.pth", "--overwrite", "-o"],
}
FOLDERS = {
    "evaluate": ["reference", "prediction", "-o"],
    "evaluate_models": ["-d", "901", "-tr", "nnUNetTrainerDSVM", "-o"],
    "report": ["model", "-o"],
    "quickstart": ["--synthetic", "--output"],
    "predict-dicom": ["-i", "study", "-m", "model", "-o"],
    "dataset": ["isic2018", "source", "-d", "18"],
    "plan": ["-d", "18"],
    "plan_and_preprocess": ["-d", "18"],
}
VARIABLES = {"dataset": "nnUNet_raw", "plan": "nnUNet_preprocessed", "plan_and_preprocess": "nnUNet_preprocessed"}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """refused(command, arguments, place): its one sentence; nothing in the folder has changed."""
    (tmp_path / "a_file").write_text("mine")
    (tmp_path / "a_folder.pt2").mkdir()
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / "not_made" / name))
    monkeypatch.chdir(tmp_path)

    def call(name, arguments, place):
        before = sorted(tmp_path.rglob("*"))
        command = name.partition("_")[0] if name not in VARIABLES else name
        if name in VARIABLES:
            monkeypatch.setenv(VARIABLES[name], str(place))
        else:
            arguments = [*arguments, str(place)]
        assert main([command, *arguments]) == 1
        assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "a_file").read_text() == "mine"
        error = capsys.readouterr().err
        assert str(place) in error and len(error.strip().splitlines()) == 1
        return error

    return call


@pytest.mark.parametrize("command", FILES)
@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("nowhere/of.pt2", "nowhere does not exist"),
        ("a_folder.pt2", "it is a folder"),
        ("a_file/of.pt2", "Not a directory"),
        ("/proc/of.pt2", "No such file or directory"),
        (f"{'long' * 80}.pt2", "File name too long"),
    ],
)
def test_a_file_that_cannot_be_written(refused, command, place, reason):
    error = refused(command, FILES[command], Path(place))
    assert f"cannot write {place}: " in error and reason in error


@pytest.mark.parametrize("command", FOLDERS)
@pytest.mark.parametrize("place", ["a_file", "a_file/in/it", "/proc/nowhere/in/it"])
def test_a_folder_that_cannot_be_written(refused, tmp_path, command, place):
    error = refused(command, FOLDERS[command], tmp_path / place)
    assert "cannot write into" in error or "is a file; set it to a folder" in error  # the latter of a variable's value


def test_a_folder_in_the_place_of_a_file(tmp_path, refused):
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    assert "report.html: it is a folder" in refused("report", FOLDERS["report"], tmp_path / "out")


def test_places_that_can_be_written_are_left_as_they_are(tmp_path):
    file = tmp_path / "there.json"
    file.write_text("older")
    times = os.stat(file)
    check_file_place(file, "")
    check_file_place(tmp_path / "new.json", "")
    check_file_place(Path(os.devnull), "", in_place=True)
    with pytest.raises(UserError, match="no ordinary file"):  # os.replace would remove the device
        check_file_place(Path(os.devnull), "")
    check_folder_place(tmp_path / "to" / "be" / "made", "")
    check_folder_place(tmp_path, "", ("there.json", "new.json"))
    assert list(tmp_path.iterdir()) == [file] and file.read_text() == "older"
    assert os.stat(file).st_mtime_ns == times.st_mtime_ns
    (tmp_path / "link.json").symlink_to(tmp_path / "nowhere" / "file.json")
    with pytest.raises(UserError, match="nowhere does not exist"):
        check_file_place(tmp_path / "link.json", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk(tmp_path, monkeypatch, refused):
    """An empty file can be made there; a block cannot be written."""
    assert "No space left on device" in refused("benchmark", FILES["benchmark"], Path("/dev/full"))
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", lambda **_: open("/dev/full", "wb", buffering=0))
    with pytest.raises(UserError, match="No space left on device"):
        check_folder_place(tmp_path / "new", "")
    with pytest.raises(UserError, match="No space left on device"):
        check_file_place(tmp_path / "a.pt2", "")
