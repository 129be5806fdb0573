"""tests/README.md: every file and test that its rows name is there, and its map names every folder."""

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TEXT = (TESTS / "README.md").read_text(encoding="utf-8")
# `test_a.py`, `test_a.py::TestB::test_c`, or what follows one and leaves out its file: `::test_c`, `test_c`.
NAME = re.compile(r"`([\w*]+\.py)?(?:::)?((?:[\w*]+::)*(?:test_|Test)[\w*]+)?`")


def named(row: str) -> Iterator[tuple[str, str]]:
    """The files that a row names and the test in each, or "" for the whole file."""
    file = ""
    for match in NAME.finditer(row):
        file = match[1] or file
        if match[1] or match[2]:
            yield file, match[2] or ""


@cache
def names_in(path: Path) -> set[str]:
    """Names as pytest writes them after the file's, of classes and of functions."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {node.name, *(f"{node.name}::{f.name}" for f in node.body if isinstance(f, ast.FunctionDef))}
    return found


FILES: dict[str, list[Path]] = {}
for path in TESTS.rglob("*.py"):
    FILES.setdefault(path.name, []).append(path)
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and "`" in line.split("|")[2]]


def test_every_name_of_a_file_is_one_file():
    assert not {
        name: paths for name, paths in FILES.items() if len(paths) > 1 and name not in ("__init__.py", "conftest.py")
    }


@pytest.mark.parametrize("row", ROWS, ids=[row.split("|")[1].strip() for row in ROWS])
def test_what_a_row_names_is_there(row):
    names = list(named(row.split("|")[2]))
    assert names, "no test"
    for file, test in names:
        paths = [path for name in FILES if fnmatchcase(name, file) for path in FILES[name]]
        assert paths, f"{file} is no file of tests/"
        tests = set().union(*map(names_in, paths))
        assert not test or any(fnmatchcase(name, test) for name in tests), f"{file} has no {test}"


def test_the_map_names_every_folder():
    folders = {path.parent.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")} - {"."}
    assert not [folder for folder in sorted(folders) if f" {folder}/" not in TEXT]


NOTES = [
    path
    for folder in ("", "documentation", "tests", "examples", "examples/accuracy_study", "nnunetv2_dsvm/*")
    for path in TESTS.parent.glob(f"{folder}/*.md" if folder else "*.md")
    if path.name != "CHANGELOG.md"
]
# Files of other projects, which the notes on the metrics name.
OF_OTHERS = {"engine.py", "utils.py"}


@pytest.mark.parametrize("path", NOTES, ids=[path.relative_to(TESTS.parent).as_posix() for path in NOTES])
def test_the_modules_that_a_text_names_are_there(path):
    named = set(re.findall(r"`([\w./]+\.(?:py|sh|cu))`", path.read_text(encoding="utf-8"))) - OF_OTHERS
    folders = [TESTS.parent / name for name in ("nnunetv2_dsvm", "tests", "examples", "documentation")]
    files = [*TESTS.parent.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.*"))]
    there = [f"/{file.relative_to(TESTS.parent).as_posix()}" for file in files]
    assert not [name for name in named if not any(file.endswith(f"/{name}") for file in there)]
