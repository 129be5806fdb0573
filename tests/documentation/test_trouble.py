"""documentation/trouble.md: every refusal of the package is there, and the package still says all of it."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import nnunetv2
from helpers.pages import DOCUMENTATION

import nnunetv2_dsvm

PACKAGE = Path(nnunetv2_dsvm.__file__).parent
TROUBLE = (DOCUMENTATION / "trouble.md").read_text(encoding="utf-8")
HOLE = "…"  # what changes from one message to the next


def template(node: ast.AST | None) -> str:
    """A message as the code makes it, with holes for what is put in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
    if isinstance(node, ast.BinOp):
        return template(node.left) + template(node.right)
    return HOLE


@cache
def trees() -> dict[str, ast.Module]:
    return {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}


def kinds_of_refusal() -> set[str]:
    """The classes of the package that derive from Refusal."""
    found = {"Refusal"}
    classes = [node for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for _ in classes:
        found |= {c.name for c in classes if found & {ast.unparse(base) for base in c.bases}}
    return found


def refusals() -> Iterator[tuple[str, str]]:
    """Where each refusal is made, and its template; without those whose words are made elsewhere."""
    kinds = kinds_of_refusal()
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds and node.args:
                text = template(node.args[0])
                if re.search(r"[A-Za-z]{2}", text):
                    yield f"{path}:{node.lineno}", text


def rows() -> list[tuple[str, str, str]]:
    """Message, cause and remedy of each row about the package's own errors."""
    own = TROUBLE.split("## Folders and variables")[1]
    cells = [line.strip("| ").split(" | ") for line in own.splitlines() if line.startswith("| `")]
    assert all(len(row) == 3 for row in cells), [row for row in cells if len(row) != 3]
    return [(message, cause, remedy) for message, cause, remedy in cells]


MESSAGES = [message for row in rows() for message in re.findall(r"`([^`]+)`", row[0])]


def pattern(message: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in message.split(HOLE)), re.DOTALL)


PATTERNS = [pattern(message) for message in MESSAGES]


def test_every_refusal_is_explained():
    missing = {place: text for place, text in refusals() if not any(known.match(text) for known in PATTERNS)}
    rows_to_add = "\n".join(f"| `{text[:90]}` | cause | remedy |   from {place}" for place, text in missing.items())
    assert not missing, f"documentation/trouble.md lacks these; write a row, or add the message to one:\n{rows_to_add}"


def test_every_message_is_one_of_the_package_s():
    nodes = (node for tree in trees().values() for node in ast.walk(tree))
    said = "\0".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    assert not [message for message in MESSAGES if not all(part in said for part in message.split(HOLE))]


def test_messages_of_nnunet_are_its_own():
    package = Path(nnunetv2.__path__[0])
    said = "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    rows = [line.split(" | ")[0] for line in TROUBLE.splitlines() if line.startswith("| nnU-Net: ")]
    messages = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    assert len(messages) == 5 and not [message for message in messages if message not in said]


def test_every_row_has_a_cause_and_a_remedy():
    assert all(len(cell.strip()) > 5 for row in rows() for cell in row[1:])
