"""The files and folders in a folder, without those that systems and programs leave there.

pathlib's `glob("*.nii.gz")` gives macOS's `._a.nii.gz` too, 4 kB of something else.
"""

from collections.abc import Iterator
from pathlib import Path

# Of macOS, Windows, Linux, NAS boxes and Jupyter; compared without regard to case.
SYSTEM_NAMES = frozenset({
    ".appledouble", ".ds_store", ".fseventsd", ".localized", ".spotlight-v100", ".temporaryitems", ".trashes",
    "__macosx", "icon\r", "$recycle.bin", "desktop.ini", "ehthumbs.db", "ehthumbs_vista.db", "thumbs.db",
    "system volume information", ".directory", "lost+found", "#recycle", "@eadir", ".ipynb_checkpoints", "__pycache__",
})  # fmt: skip
SYSTEM_PREFIXES = ("._", ".fuse_hidden", ".nfs", ".trash-", ".~lock.", "~$")
UNFINISHED = ("~", ".crdownload", ".part", ".partial", ".tmp")  # editors' copies, downloads, files being written


def left_by_a_system(name: str) -> bool:
    """Whether a file or folder of this name was made by a system or program, and by nobody on purpose."""
    folded = name.casefold()
    return folded in SYSTEM_NAMES or folded.startswith(SYSTEM_PREFIXES)


def is_litter(name: str) -> bool:
    """Whether a listing passes over this name: hidden, unfinished, or left by a system."""
    return name.startswith(".") or name.casefold().endswith(UNFINISHED) or left_by_a_system(name)


def visible(folder: Path) -> list[Path]:
    """What is in a folder, by name; nothing where there is no folder."""
    return sorted(path for path in folder.iterdir() if not is_litter(path.name)) if folder.is_dir() else []


def visible_files(folder: Path, ending: str = "") -> list[Path]:
    """Its files whose names end so, by name; a link to nothing is one, so that whoever reads it names it."""
    return [path for path in visible(folder) if path.name.endswith(ending) and not path.is_dir()]


def visible_folders(folder: Path, prefix: str = "") -> list[Path]:
    """Its folders whose names begin so, by name."""
    return [path for path in visible(folder) if path.name.startswith(prefix) and path.is_dir()]


def folders_down(folder: Path, depth: int) -> Iterator[Path]:
    """The folder, then the visible ones below it, level by level."""
    level = [folder]
    for _ in range(depth + 1):
        yield from level
        level = [below for parent in level for below in visible_folders(parent)]


def inner_folder(folder: Path) -> Path:
    """The folder, or the one of its name in it: archives unpacked each into a folder of their own have it twice."""
    twice = folder / folder.name
    return twice if twice.is_dir() else folder


def files_below(folder: Path) -> list[Path]:
    """All visible files in a folder and in the visible folders below it, by path."""
    found = visible_files(folder)
    for below in visible_folders(folder):
        found += files_below(below)
    return sorted(found)
