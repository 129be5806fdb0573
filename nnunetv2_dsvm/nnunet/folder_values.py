"""Paths that cannot be meant, in nnU-Net's folder variables and on our command line.

nnU-Net takes every character of a variable as part of a folder's name and makes folders named `~`, `$HOME` or `"`
without a word. Nothing is stripped or expanded here either: this package would else use another folder than nnU-Net.
"""

import os
import re
import unicodedata
from pathlib import Path

from nnunetv2_dsvm.nnunet.names import TRAINING_IMAGES

QUOTES = "\"'“”„‘’‚«»"
UNEXPANDED = (
    (re.compile(r"\$([A-Za-z_]\w*|\{[^}]*\}|\([^)]*\))|`[^`]*`"), "which no shell has replaced"),
    (re.compile(r"(?<!\d)%(?![0-9A-Fa-f]{2}%)[A-Za-z_][\w()]*%"), "which cmd has not replaced"),  # 50%_of_100%
)
COMMENT = re.compile(r" #(?!\d)")  # but "Volume #2"
LISTED = re.compile(rf"[{os.pathsep};](?=[\\/]|[A-Za-z]:[\\/]|$)")
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
    """The same of a path, whatever it names. Of an absolute one, folders that are there may have any name."""
    new = _not_there_yet(path)
    return _invisible(path) or (_not_a_path(path, new) or _not_replaced(path, new) or _of_another_system(path, new))


def _not_there_yet(path: str) -> str:
    """The end of an absolute path that does not exist, from a separator on; a relative path as it is."""
    if not os.path.isabs(path):
        return path
    for end in [len(path), *(found.start() for found in reversed(list(re.finditer(r"[\\/]", path))))]:
        if end and os.path.isdir(path[:end]):
            return path[end:]
    return path


def _invisible(value: str) -> Fault | None:
    """Characters that came with the value from a file or a command line: none of them is seen in a message."""
    invisible = [c for c in value if unicodedata.category(c) == "Cc"]
    invisible += [c for c in (value[0], value[-1]) if c.isspace() or unicodedata.category(c) == "Cf"]
    if not invisible:
        return None
    where = "at its end" if invisible[-1] == value[-1] else "at its beginning or inside"
    name = "a blank" if invisible[-1] == " " else f"the invisible character {invisible[-1]!r}"
    meant = _visible(value)
    advice = f"set it to {meant!r}" if fault_of_path(meant) is None else "set it to the path alone"
    return f"is {value!r}, with {name} {where}, which is part of the name", advice


def _not_a_path(value: str, new: str) -> Fault | None:
    """Args: new: the part of the value to look at, here and below."""
    if quotes := [c for c in (*new[:1], *new[-1:], '"') if c in QUOTES and c in new]:
        meant = "".join(c for c in value if c not in quotes).strip()
        return (
            f"is {value!r}: the quotes are part of it, as cmd and files like docker's --env-file leave them",
            f"set it to {meant}, without quotes" if meant else "set it to a path",
        )
    if new[-1:] in (";", ",") or new[:1] == "=" or COMMENT.search(new):
        return f"is {value!r}, with more than a path: a separator or a comment", "set it to the path alone"
    return None


def _not_replaced(value: str, new: str) -> Fault | None:
    if new.startswith("~") or "~" in re.split(r"[\\/]", new):
        home = os.path.expanduser(value[value.index("~") :])
        return (
            f"is {value!r}, in which no shell has replaced ~ by the home folder",
            f"write it out: {home}" if os.path.isabs(home) else "write the home folder out",
        )
    for pattern, what in UNEXPANDED:
        if found := pattern.search(new):
            return f"is {value!r}, with {found[0]}, {what}", "write the path out"
    if PLACEHOLDER.search(new):
        return f"is {value!r}, the placeholder of an example", "set it to a folder of your own"
    return None


def _of_another_system(value: str, new: str) -> Fault | None:
    if found := SCHEME.match(new):
        return f"is {value!r}, an address and no path", f"set it to a path, without {found[0]}"
    if os.name != "nt" and (DRIVE.match(new) or "\\" in new):
        return f"is {value!r}, a path of Windows: here \\ divides no folders", "set it to a path with /"
    for found in LISTED.finditer(new):
        first, second = value[: len(value) - len(new) + found.start()], new[found.end() :]
        a_drive = re.search(r"[\\/][A-Za-z]$", first) and found[0] == ":"  # /mnt/c:/x, but not /data/a:/data/b
        if not a_drive or second.split("/")[:2] == first.split("/")[:2]:
            return f"is {value!r}, which lists several folders as PATH does", f"name one of them, e.g. {first}"
    return None


def _not_a_folder(value: str) -> Fault | None:
    folder = Path(value).absolute()
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if os.path.isdir(existing):  # pathlib's would raise where a folder may not be looked into
        return None
    what = "a file" if os.path.exists(existing) else "a link to nothing"
    return f"is {value!r}, which cannot be a folder: {existing} is {what}", "set it to a folder"


def _one_dataset(value: str) -> Fault | None:
    folder = Path(value).absolute()
    if DATASET.fullmatch(folder.name) or os.path.isdir(folder / TRAINING_IMAGES):
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
