"""The tests' own house: they know the package by its public names alone."""

import ast
import inspect
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

import nnunetv2_dsvm

TESTS = Path(__file__).parent
PACKAGE = Path(nnunetv2_dsvm.__file__).parent


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def private_names(tree: ast.AST) -> set[str]:
    """The underscored names that a file defines: functions, classes, variables, attributes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            found.add(node.attr)
    return {name for name in found if is_private(name)}


def parsed(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"))


# Without nnU-Net's own, which are underscored, but hooks and entries of checkpoints that we share.
NNUNETS = private_names(ast.parse(inspect.getsource(nnUNetTrainer)))
INSIDE = {name for path in PACKAGE.rglob("*.py") for name in private_names(parsed(path))} - NNUNETS - {"_"}


def reached(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines that read or replace what the package keeps to itself; what the file defines itself is its own."""
    inside = INSIDE - private_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE.name:
            yield from (
                (node.lineno, a.name) for a in node.names if any(map(is_private, [a.name, *node.module.split(".")]))
            )
        elif isinstance(node, ast.Attribute) and node.attr in inside and ast.unparse(node.value) != "torch":
            yield node.lineno, f"{ast.unparse(node.value)}.{node.attr}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = node.value.split(".")
            if node.value in inside or (parts[0] == PACKAGE.name and any(map(is_private, parts))):
                yield node.lineno, repr(node.value)
            elif "import " in node.value:  # perhaps a program, for a process of its own
                with suppress(SyntaxError):
                    yield from ((node.lineno, name) for _, name in reached(ast.parse(node.value)))


FILES = sorted(TESTS.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[path.relative_to(TESTS).as_posix() for path in FILES])
def test_nothing_reaches_inside_the_package(path):
    assert list(reached(parsed(path))) == []


def test_what_is_found():
    text = """
from nnunetv2_dsvm.ops import _hidden
from nnunetv2_dsvm.ops import dispatch
dispatch._{0}
monkeypatch.setattr(dispatch, "_{0}", None)
monkeypatch.setattr("nnunetv2_dsvm.ops.dispatch._other", None)
trainer._do_i_compile()
trainer.__class__
run("import nnunetv2_dsvm; nnunetv2_dsvm._{0} = 1")
"""
    name = min(INSIDE)[1:]
    assert [line for line, _ in reached(ast.parse(text.format(name)))] == [2, 4, 5, 6, 9]
