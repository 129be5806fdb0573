"""Where a dataset is written: beside and renamed, checked by nnU-Net, repeatable, never over anybody else's files."""

import json
import os
from pathlib import Path

import pytest
import SimpleITK as sitk
from helpers.dataset_miniatures import convert, isic_seven_to_three, threads_for_processes, tree
from helpers.litter import scatter
from PIL import Image

from nnunetv2_dsvm.datasets import isic
from nnunetv2_dsvm.datasets.raw_folder import Contents, RawFolder
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files import atomic_write

NAME = "Dataset018_ISIC2018"


@pytest.fixture
def source(tmp_path):
    return isic_seven_to_three(tmp_path / "download")


def write_two_cases(folder: Path) -> None:
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    for case in "ab":
        Image.new("RGB", (8, 8), (case == "a", 2, 3)).save(folder / "imagesTr" / f"{case}_0000.png")
        Image.new("L", (8, 8), 1).save(folder / "labelsTr" / f"{case}.png")
    isic.write_dataset_json(folder, description="", reference="", channels="RGB", labels=["lesion"],
                            file_ending=".png", reader="NaturalImage2DIO")  # fmt: skip


def write(contents: Contents) -> None:
    with threads_for_processes():
        RawFolder(18, "ISIC2018").write(contents, workers=1)


def test_the_same_command_again_replaces_what_it_wrote(folders, source, capsys):
    assert convert("isic2018", source, "-d", 18, "--resize", 32) == 0
    first = capsys.readouterr()
    assert "checking: 100%" in first.err and "writing: 100%" in first.err
    assert "-c 2d\n" in first.out
    written = tree(folders / "raw")
    scatter(folders / "raw" / NAME, hidden=False)  # by the file manager that looked at it
    assert convert("isic2018", source, "-d", 18, "--resize", 32) == 0
    assert tree(folders / "raw") == written

    (folders / "preprocessed" / NAME / "dataset_fingerprint.json").write_text("{}")
    for part in ("train", "val"):  # one case fewer in each: the split changes with the dataset
        for kind in ("images", "masks"):
            min((source / part / kind).glob("ISIC_*.png")).unlink()
    capsys.readouterr()
    assert convert("isic2018", source, "-d", 18) == 0
    assert "-c 2d --clean" in capsys.readouterr().out
    raw = folders / "raw" / NAME
    split = json.loads((folders / "preprocessed" / NAME / "splits_final.json").read_text())
    assert split == json.loads((raw / "splits_final.json").read_text())
    cases = sorted(path.stem for path in (raw / "labelsTr").iterdir())
    assert sorted(split[0]["train"] + split[0]["val"]) == cases and len(cases) == 6
    assert Image.open(raw / "labelsTr" / f"{cases[0]}.png").size == (60, 44)


def test_what_it_did_not_make_is_refused(folders, source, capsys):
    raw = folders / "raw" / NAME
    (raw / "imagesTr").mkdir(parents=True)
    (raw / "imagesTr" / "mine_0000.png").write_bytes(b"precious")
    assert convert("isic2018", source, "-d", 18) == 1
    assert "exists and was not made by this command" in capsys.readouterr().err
    assert tree(folders / "raw") == {f"{NAME}/imagesTr/mine_0000.png": b"precious"}


@pytest.mark.parametrize("path", ["labelsTr/a.png", "labelsTs/mine.png", "notes.txt", ".notes.txt"])
def test_files_added_or_changed_since_are_kept(folders, path):
    write(Contents(write_two_cases))
    changed = folders / "raw" / NAME / path
    changed.parent.mkdir(exist_ok=True)
    changed.write_bytes(b"corrected by hand")
    before = tree(folders / "raw")
    with pytest.raises(UserError, match=f"added or changed since it was written: {path}"):
        write(Contents(write_two_cases))
    assert tree(folders / "raw") == before


def test_a_change_that_keeps_the_size_is_seen(folders):
    write(Contents(write_two_cases))
    file = folders / "raw" / NAME / "dataset.json"
    file.write_text(file.read_text().replace("lesion", "tumour"))
    with pytest.raises(UserError, match="changed since it was written: dataset.json"):
        write(Contents(write_two_cases))
    assert "tumour" in file.read_text()


def test_ctrl_c_between_the_two_renames_puts_the_old_dataset_back(folders, monkeypatch):
    write(Contents(write_two_cases))
    before = tree(folders / "raw")

    def stop_once(source, target, original=os.replace):
        if Path(source).parent.name == f".partial_{NAME}" and Path(source).name == NAME:
            monkeypatch.undo()
            raise KeyboardInterrupt
        original(source, target)

    monkeypatch.setattr(atomic_write.os, "replace", stop_once)
    with pytest.raises(KeyboardInterrupt):
        write(Contents(write_two_cases))
    assert tree(folders / "raw") == before


def test_a_kill_between_the_two_renames_loses_nothing(folders):
    write(Contents(write_two_cases))
    before = tree(folders / "raw")
    beside = folders / "raw" / f".partial_{NAME}"
    beside.mkdir()
    (folders / "raw" / NAME).rename(beside / atomic_write.OLD)

    def fail(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        write(Contents(fail))
    assert tree(folders / "raw") == before


def test_folds_that_cannot_be_written_are_found_before_anything_is(folders, source, capsys):
    (folders / "preprocessed").mkdir(exist_ok=True)
    (folders / "preprocessed" / NAME).write_text("a file where the dataset's folder would be")
    assert convert("isic2018", source, "-d", 18) == 1
    assert "cannot write" in capsys.readouterr().err
    assert not (folders / "raw" / NAME).exists()


def test_a_file_that_was_not_written_whole_is_found(folders):
    """As ITK leaves it when the disk fills up, without an error."""

    def write_half(folder: Path) -> None:
        write_two_cases(folder)
        sitk.WriteImage(sitk.Image(64, 64, 4, sitk.sitkInt16), str(folder / "half.nii.gz"))
        (folder / "half.nii.gz").write_bytes((folder / "half.nii.gz").read_bytes()[:-20])

    write(Contents(write_two_cases))
    before = tree(folders / "raw")
    with pytest.raises(UserError, match="half.nii.gz was not written whole .* MiB are free"):
        write(Contents(write_half))
    assert tree(folders / "raw") == before


@pytest.mark.parametrize("place", ["raw", "preprocessed", "results"])
def test_an_id_of_another_dataset(folders, source, capsys, place):
    (folders / place / "Dataset018_Other").mkdir(parents=True)
    (folders / place / "Dataset018_ISIC2018.tar").touch()  # nnU-Net looks at folders only
    assert convert("isic2018", source, "-d", 18) == 1
    assert f"{place}/Dataset018_Other" in capsys.readouterr().err


def test_an_impossible_id_and_no_folder(folders, source, capsys, monkeypatch):
    assert convert("isic2018", source, "-d", 0) == 1
    assert "from 1 to 999" in capsys.readouterr().err
    monkeypatch.delenv("nnUNet_raw")
    assert convert("isic2018", source, "-d", 18) == 1
    assert "nnUNet_raw is not set" in capsys.readouterr().err


def test_without_nnunet_preprocessed_the_planner_finds_the_split_in_the_raw_folder(folders, source, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed")
    assert convert("isic2018", source, "-d", 18) == 0
    assert (folders / "raw" / NAME / "splits_final.json").is_file()
    assert not (folders / "preprocessed").exists()


def test_other_folds_are_not_overwritten(folders):
    preprocessed = folders / "preprocessed" / NAME
    preprocessed.mkdir(parents=True)
    mine = json.dumps([{"train": ["b"], "val": ["a"]}])
    (preprocessed / "splits_final.json").write_text(mine)
    with pytest.raises(UserError, match="holds other folds than this dataset's"):
        write(Contents(write_two_cases, [{"train": ["a"], "val": ["b"]}]))
    assert (preprocessed / "splits_final.json").read_text() == mine
    assert not (folders / "raw").exists()


def test_folds_go_with_the_split_they_came_with(folders):
    path = folders / "preprocessed" / NAME / "splits_final.json"
    write(Contents(write_two_cases, [{"train": ["a"], "val": ["b"]}]))
    assert path.is_file()
    write(Contents(write_two_cases))
    assert not path.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["ctrl-c", "full"])
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_an_interrupted_conversion_changes_nothing(folders, source, error, again, monkeypatch, capsys):
    if again:
        assert convert("isic2018", source, "-d", 18) == 0
    before = tree(folders / "raw")

    def stop(*arguments, **options):
        raise error

    monkeypatch.setattr(isic, "write_dataset_json", stop)
    assert convert("isic2018", source, "-d", 18, "--resize", 32) == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert tree(folders / "raw") == before
    assert [path.name for path in (folders / "raw").iterdir()] == ([NAME] if again else [])
    if isinstance(error, OSError):
        assert "No space left on device" in capsys.readouterr().err


def test_what_nnunet_refuses_is_removed(folders, capfd):
    def broken(folder: Path) -> None:
        write_two_cases(folder)
        Image.new("L", (8, 8), 5).save(folder / "labelsTr" / "b.png")

    with pytest.raises(UserError, match="nnU-Net's integrity check refused"):
        RawFolder(18, "ISIC2018").write(Contents(broken), workers=1)  # in nnU-Net's own process
    assert "Unexpected labels found" in capfd.readouterr().out
    assert list((folders / "raw").iterdir()) == []


def test_a_killed_conversion_is_cleared_away_by_the_next(folders):
    leftover = folders / "raw" / f".partial_{NAME}" / NAME
    leftover.mkdir(parents=True)
    (leftover / "half.png").write_bytes(b"half")
    write(Contents(write_two_cases))
    assert [path.name for path in (folders / "raw").iterdir()] == [NAME]
