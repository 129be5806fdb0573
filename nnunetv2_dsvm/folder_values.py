"""Paths that cannot be meant, in nnU-Net's folder variables and on our command line.

nnU-Net takes every character of a variable as part of a folder's name and makes folders named `~`, `$HOME` or `"`
without a word. Nothing is stripped or expanded here either: this package would else use another folder than nnU-Net.
"""

import os
import re
import unicodedata
from pathlib import Path

QUOTES = "\"'“”„‘’‚«»"
UNEXPANDED = (
    (re.compile(r"\$(\w+|\{[^}]*\}|\([^)]*\))|`[^`]*`"), "which no shell has replaced"),
    (re.compile(r"%(?![0-9A-Fa-f]{2}%)[A-Za-z_][\w()]*%"), "which cmd has not replaced"),
)
PLACEHOLDER = re.compile(r"<[^<>]+>|^[\\/]path[\\/]to[\\/]")
SCHEME = re.compile(r"[A-Za-z][\w+.-]*://")
DRIVE = re.compile(r"[A-Za-z]:([\\/]|$)")
DATASET = re.compile(r"Dataset\d{3}_.+")

Fault = tuple[str, str]


def fault_of_value(name: str, value: str | None) -> Fault | None:
    """What is wrong with the value of a variable that names a folder, and what to do about it; None where nothing is.

    A relative path is none of the faults, and a folder that does not exist yet is none either.

    Args:
        name: of the variable.
        value: as it is in the environment; None where the variable is not set.
    """
    if value is None or not value.strip():
        what = "not set" if value is None else "empty" if not value else f"{value!r}, which names no folder"
        return f"is {what}", f"export {name}=/path/to/a/folder"
    return fault_of_path(value) or _not_a_folder(value) or _one_dataset(value)


def fault_of_path(path: str) -> Fault | None:
    """The same of a path, whatever it names."""
    return _ends(path) or _not_replaced(path) or _of_another_system(path)


def _ends(value: str) -> Fault | None:
    """Characters that came with the value from a file or a command line: none of them is seen in a message."""
    if value[0] in QUOTES or value[-1] in QUOTES or '"' in value:
        meant = value.replace('"', "").strip(QUOTES + " ")
        return (
            f"is {value!r}: the quotes are part of it, as cmd and files like docker's --env-file leave them",
            f"set it to {meant}, without quotes",
        )
    invisible = [c for c in value if unicodedata.category(c) == "Cc"]
    invisible += [c for c in (value[0], value[-1]) if c.isspace() or unicodedata.category(c) == "Cf"]
    if invisible:
        where = "at its end" if invisible[-1] == value[-1] else "at its beginning or inside"
        name = "a blank" if invisible[-1] == " " else f"the invisible character {invisible[-1]!r}"
        return (
            f"is {value!r}, with {name} {where}, which is part of the name",
            f"set it to {_visible(value)!r}",
        )
    if value[-1] in ";," or value[0] == "=" or " #" in value:
        return f"is {value!r}, with more than a path: a separator or a comment", "set it to the path alone"
    return None


def _not_replaced(value: str) -> Fault | None:
    parts = re.split(r"[\\/]", value)
    if value.startswith("~") or "~" in parts:
        return (
            f"is {value!r}, in which no shell has replaced ~ by the home folder",
            f"write it out: {os.path.expanduser(value[value.index('~'):])}",
        )
    for pattern, what in UNEXPANDED:
        if found := pattern.search(value):
            return f"is {value!r}, with {found[0]}, {what}", "write the path out"
    if PLACEHOLDER.search(value) and not os.path.exists(value):
        return f"is {value!r}, the placeholder of an example", "set it to a folder of your own"
    return None


def _of_another_system(value: str) -> Fault | None:
    if found := SCHEME.match(value):
        return f"is {value!r}, an address and no path", f"set it to a path, without {found[0]}"
    if os.name != "nt" and (DRIVE.match(value) or "\\" in value):
        return f"is {value!r}, a path of Windows: here \\ divides no folders", "set it to a path with /"
    separated = re.split(f"{os.pathsep}(?=[\\\\/]|[A-Za-z]:[\\\\/]|$)", value)
    if len(separated) > 1:
        return f"is {value!r}, which lists several folders as PATH does", f"name one of them, e.g. {separated[0]}"
    return None


def _not_a_folder(value: str) -> Fault | None:
    folder = Path(value).absolute()
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if existing.is_dir():
        return None
    what = "a link to nothing" if existing.is_symlink() and not existing.exists() else "a file"
    return f"is {value!r}, which cannot be a folder: {existing} is {what}", "set it to a folder"


def _one_dataset(value: str) -> Fault | None:
    folder = Path(value).absolute()
    if DATASET.fullmatch(folder.name) or (folder / "imagesTr").is_dir():
        return f"is {value!r}, the folder of one dataset", f"set it to the folder above it, {folder.parent}"
    return None


def _visible(value: str) -> str:
    """Without control characters, and without blanks and format characters at the ends."""
    kept = "".join(c for c in value if unicodedata.category(c) != "Cc")
    while kept and (kept[0].isspace() or unicodedata.category(kept[0]) == "Cf"):
        kept = kept[1:]
    while kept and (kept[-1].isspace() or unicodedata.category(kept[-1]) == "Cf"):
        kept = kept[:-1]
    return kept
