"""Files and folders that are written beside their place and moved there in one step."""

import ast
import os
import stat
from pathlib import Path

import pytest

import nnunetv2_dsvm
from nnunetv2_dsvm.files.atomic_write import beside, put_in_place, remove_unfinished, replaced_file, replaced_folder
from nnunetv2_dsvm.files.json_files import read_json, write_json

# By pathlib: what nobody else reads, what lies beside its place already, and devices.
WRITE_PLAINLY = {
    "benchmark/measuring/isolated.py", "benchmark/measuring/memory.py", "diagnostics/torch_probe.py",
    "diagnostics/trainer_probe.py", "diagnostics/trainer_list_probe.py", "quickstart/source_archive.py",
    "evaluation/tables.py", "files/atomic_write.py", "reporting/api.py",
    "cli/commands/benchmark.py",
}  # fmt: skip
# The kernels' cache is `ops/`'s own, which imports nothing of the package.
MOVE_FILES = {"files/atomic_write.py", "ops/nvrtc/compile.py"}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path):
    place = tmp_path / "a.nii.gz"
    with replaced_file(place) as partial:
        assert partial.name == place.name and partial != place  # readers and writers go by the ending
        partial.write_bytes(b"half")
        assert not place.exists()
        partial.write_bytes(b"whole")
    assert place.read_bytes() == b"whole" and names(tmp_path) == ["a.nii.gz"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"])
def test_a_file_stays_as_it_was_after_a_failure(tmp_path, error):
    place = tmp_path / "plans.json"
    place.write_text("older")

    def fill():
        with replaced_file(place) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fill()
    assert place.read_text() == "older" and names(tmp_path) == ["plans.json"]


def test_permissions_are_those_of_an_ordinary_file_or_of_the_replaced_one(tmp_path):
    mask = os.umask(0o027)
    try:
        write_json(tmp_path / "new.json", 1, indent=2)
        with replaced_folder(tmp_path / "folder") as partial:
            (partial / "a").touch()
    finally:
        os.umask(mask)
    (tmp_path / "old.json").touch()
    (tmp_path / "old.json").chmod(0o604)
    write_json(tmp_path / "old.json", 2, indent=2)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names(tmp_path)}
    assert modes == {"new.json": 0o640, "folder": 0o750, "old.json": 0o604}


def test_a_link_stays_and_what_it_names_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    for name in ("a.json", "new.json", "folder"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "disk" / "a.json").write_text("1")
    (tmp_path / "disk" / "folder").mkdir()
    write_json(tmp_path / "a.json", 2, indent=2)
    write_json(tmp_path / "new.json", 3, indent=2)
    with replaced_folder(tmp_path / "folder") as partial:
        (partial / "file").touch()
    assert all(path.is_symlink() for path in tmp_path.iterdir() if path.name != "disk")
    assert [read_json(tmp_path / "disk" / name) for name in ("a.json", "new.json")] == [2, 3]
    assert names(tmp_path / "disk") == ["a.json", "folder", "new.json"]
    assert names(tmp_path / "disk" / "folder") == ["file"]


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_not_replaced(tmp_path, kind):
    place = tmp_path / "place"
    place.mkdir() if kind == "folder" else os.mkfifo(place)
    with pytest.raises(OSError, match="no ordinary file"):
        write_json(place, 1, indent=2)
    assert not place.is_file() and names(tmp_path) == ["place"]


def test_a_file_that_must_be_new_is_not_replaced(tmp_path):
    write_json(tmp_path / "plans.json", 1, indent=2, new=True)
    with pytest.raises(FileExistsError):
        write_json(tmp_path / "plans.json", 2, indent=2, new=True)
    assert read_json(tmp_path / "plans.json") == 1 and names(tmp_path) == ["plans.json"]


def test_files_take_their_places_together(tmp_path):
    with beside(tmp_path / "report.html") as partial:
        for name in ("a.png", "report.html"):
            (partial / name).touch()
        assert [name for name in names(tmp_path) if not name.startswith(".")] == []
        for name in ("a.png", "report.html"):
            put_in_place(partial / name, tmp_path / name)
    assert names(tmp_path) == ["a.png", "report.html"]


def test_what_killed_runs_left_is_removed(tmp_path):
    (tmp_path / ".partial_x").mkdir()
    (tmp_path / ".partial_x" / "checkpoint_best.pth").touch()
    (tmp_path / "checkpoint_best.pth").touch()
    remove_unfinished(tmp_path)
    assert names(tmp_path) == ["checkpoint_best.pth"]


def calls_of_attributes():
    """Each file of the package, and its calls `of.name(…)`."""
    package = Path(nnunetv2_dsvm.__file__).parent
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                yield path.relative_to(package).as_posix(), node


def test_nobody_else_moves_files():
    """By `os.replace`, `os.rename` or pathlib's methods; a string's `replace` has two arguments."""
    found = set()
    for file, node in calls_of_attributes():
        of = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
        arguments = len(node.args) + len(node.keywords)
        if (of, node.func.attr) in {("os", "replace"), ("os", "rename"), ("os", "renames"), ("shutil", "move")} or (
            node.func.attr == "rename" or (node.func.attr == "replace" and arguments == 1)
        ):
            found.add(file)
    assert found == MOVE_FILES


def test_results_are_not_written_where_they_stay():
    methods = ("write_text", "write_bytes")
    assert {file for file, node in calls_of_attributes() if node.func.attr in methods} == WRITE_PLAINLY
