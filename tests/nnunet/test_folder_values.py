"""Values of nnU-Net's folder variables that cannot be meant: the doctor and every command refuse them."""

import os

import pytest

from nnunetv2_dsvm.cli.main import main
from nnunetv2_dsvm.diagnostics.finding import Severity
from nnunetv2_dsvm.diagnostics.folders import check_folders
from nnunetv2_dsvm.nnunet.folders import problem_of_value

# value -> words of the sentence
WRONG = {
    '"/data/raw"': "quotes", "'/data/raw'": "quotes", '"/data/raw': "quotes", '/data/"my raw"': "quotes",
    "“/data/raw”": "quotes", "~": "home folder", "~/raw": "home folder", "~ann/raw": "home folder",
    "/data/~/raw": "home folder", "$HOME/raw": "no shell has replaced", "${HOME}/raw": "no shell has replaced",
    "/data/$(whoami)": "no shell has replaced", "`pwd`/raw": "no shell has replaced",
    "%USERPROFILE%/raw": "cmd has not replaced", "/data/raw ": "a blank at its end",
    " /data/raw": "a blank at its beginning", "/data/raw\n": r"'\n' at its end", "/data/raw\r": r"'\r' at its end",
    "/data/raw\t": r"'\t' at its end", "\ufeff/data/raw": "invisible character", "/data/raw\xa0": "invisible character",
    "\u202a/data/raw": "invisible character", "/data/raw;": "separator", "/data/raw # images": "comment",
    "/data/raw:/data/more": "several folders", "/data/a:/data/b": "several folders",
    "/data/a;/b": "several folders", "file:///data/raw": "an address", "/path/to/nnUNet_raw": "placeholder",
    "/data/<user>/raw": "placeholder", "  ": "names no folder",
}  # fmt: skip
OF_WINDOWS = ["C:\\data\\raw", "C:/data/raw", "D:", "\\\\server\\share", "/data\\raw", "data\\raw"]
RIGHT = ["/data/raw", "/data/my raw", "/data/o'neil/raw", "/data/2024-01-01T10:30/raw", "/data/50%/a%20b%20c",
         "/data/a~b", "/data/c#/$", "/data/Volume #2", "/mnt/c:/x", "/data/50%_of_100%", "/data/US$5",
         "raw", "/data/raw/", "/data/\udcff", "/data/\u0627\u200c\u0628"]  # fmt: skip


@pytest.mark.parametrize(("value", "words"), WRONG.items(), ids=map(ascii, WRONG))
def test_what_cannot_be_meant(value, words):
    problem = problem_of_value("nnUNet_raw", value)
    assert problem.startswith("nnUNet_raw is ") and words in problem
    assert check_folders({"nnUNet_raw": value})[0].severity is Severity.BLOCKER


@pytest.mark.skipif(os.name == "nt", reason="these are paths there")
@pytest.mark.parametrize("value", OF_WINDOWS)
def test_paths_of_windows(value):
    assert "a path of Windows" in problem_of_value("nnUNet_raw", value)


@pytest.mark.parametrize("value", RIGHT, ids=ascii)
def test_what_can_be_meant(value):
    assert problem_of_value("nnUNet_raw", value) is None


def test_the_advice_is_the_value_that_is_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"write it out: {tmp_path}/raw" in problem_of_value("nnUNet_raw", "~/raw")
    for value in (f'"{tmp_path}"', f"{tmp_path}\r\n", f" {tmp_path}", f"\ufeff{tmp_path}"):
        advice = problem_of_value("nnUNet_raw", value).rpartition("; ")[2]
        assert advice.removesuffix(", without quotes").removeprefix("set it to ").strip("'") == str(tmp_path)


def test_an_absolute_folder_that_is_there_may_have_any_name(tmp_path, monkeypatch):
    for name in ("a$b", "Volume # 2", "x'", "<1>", "50:", "a\\b", "%A%", "~"):
        (tmp_path / name).mkdir()
        for value in (tmp_path / name, tmp_path / name / "raw"):
            assert problem_of_value("nnUNet_raw", str(value)) is None
        assert "with $HOME" in problem_of_value("nnUNet_raw", str(tmp_path / name / "$HOME"))
    for name in ("raw ", "raw\n"):  # as nnU-Net has made it
        (tmp_path / name).mkdir()
        assert "which is part of the name" in problem_of_value("nnUNet_raw", str(tmp_path / name))
    monkeypatch.chdir(tmp_path)  # likewise
    assert "home folder" in problem_of_value("nnUNet_raw", "~/raw")


def test_a_folder_that_cannot_be_looked_at(tmp_path):
    """pathlib raises there."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "a link to nothing" in problem_of_value("nnUNet_raw", str(tmp_path / "loop" / "raw"))
    assert problem_of_value("nnUNet_raw", f"{tmp_path}/{'long' * 100}") is None  # found when it is written to


def test_a_file_and_a_folder_below_one(tmp_path):
    (tmp_path / "file").touch()
    for value in (tmp_path / "file", tmp_path / "file" / "raw"):
        assert f"{tmp_path}/file is a file" in problem_of_value("nnUNet_raw", str(value))
    assert problem_of_value("nnUNet_raw", str(tmp_path / "not" / "yet")) is None


def test_the_folder_of_one_dataset(tmp_path):
    (tmp_path / "mine" / "imagesTr").mkdir(parents=True)
    for name in ("mine", "Dataset027_ACDC"):
        assert f"set it to the folder above it, {tmp_path}" in problem_of_value("nnUNet_raw", str(tmp_path / name))


@pytest.mark.parametrize("wrong", ["raw", "preprocessed", "results"])
@pytest.mark.parametrize("command", [
    ["evaluate", "-d", "27", "-tr", "nnUNetTrainerDSVM"],
    ["report", "-d", "27", "-o", "report"],
    ["plan", "-d", "27"],
    ["plan_and_preprocess", "-d", "27"],
    ["dataset", "isic2018", "download", "-d", "27"],
], ids=lambda command: command[0])  # fmt: skip
def test_commands_refuse_before_anything_is_written(command, wrong, folders, monkeypatch, capsys):
    """Stripped by one and taken as it is by another, two folders would be used."""
    monkeypatch.chdir(folders)
    monkeypatch.setenv(f"nnUNet_{wrong}", f"{folders / wrong} ")
    assert main(command) == 1
    assert f"nnUNet_{wrong} is '{folders / wrong} ', with a blank at its end" in capsys.readouterr().err
    assert list(folders.iterdir()) == []


def test_export_refuses_too(folders, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_results", "$HOME/results")
    assert main(["export", "-d", "27", "-f", "0", "-o", str(folders / "model.pt2")]) == 1
    assert "with $HOME, which no shell has replaced" in capsys.readouterr().err


@pytest.mark.parametrize("command", [
    ["quickstart", "--output=~/results"],
    ["report", "model", "-o", "$HOME/report"],
    ["evaluate", "'reference'", "prediction"],
    ["export", "-f", "0", "model", "-o", "model.pt2 "],
    ["convert-weights", "weights.pth", "-o", "%HOME%/vmamba.pth"],
    ["benchmark", "--json", '"speed.json"'],
], ids=lambda command: command[0])  # fmt: skip
def test_paths_on_the_command_line(command, tmp_path, monkeypatch, capsys):
    """`--output=~/results` would become a folder named ~: no shell replaces it there."""
    monkeypatch.chdir(tmp_path)
    assert main(command) == 1
    assert "a path on the command line is " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_an_odd_name_that_is_there(tmp_path, capsys):
    (tmp_path / "a$b").mkdir()
    assert main(["evaluate", str(tmp_path / "a$b" / "reference"), str(tmp_path / "a$b")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_raw_and_preprocessed_in_one_folder(folders, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_preprocessed", f"{folders}/raw/")
    assert main(["plan", "-d", "27"]) == 1
    assert "are one folder" in capsys.readouterr().err
    assert main(["report", "-d", "27", "-o", str(folders / "report")]) == 1  # where nothing is planned, it may be
    assert "no dataset 27" in capsys.readouterr().err
