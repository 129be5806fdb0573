"""What systems and programs leave in every folder of a user's."""

from pathlib import Path

OF_SYSTEMS = ("._{name}", "~${name}", ".DS_Store", "._.DS_Store", "Thumbs.db", "THUMBS.DB", "desktop.ini")
HIDDEN = (".{name}", ".{name}.swp", "{name}.tmp", "{name}~")  # or unfinished: of a user's programs
FOLDERS = (".ipynb_checkpoints", "__MACOSX", "@eaDir")


def scatter(root: Path, *, hidden: bool = True) -> list[Path]:
    """Leave litter named like the files and folders there in `root` and every folder below; what was written."""
    written, patterns = [], OF_SYSTEMS + HIDDEN * hidden
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        there = [path for path in sorted(folder.iterdir()) if path not in written]
        names = {(path.suffix, path.is_dir()): path.name for path in there} or {"": "nothing"}
        for name in names.values():
            written += [folder / pattern.format(name=name) for pattern in patterns]
        for below in FOLDERS:
            (folder / below).mkdir()
            written += [folder / below / name for name in (*names.values(), f"._{there[0].name if there else 'x'}")]
    written = list(dict.fromkeys(written))
    for path in written:
        path.write_bytes(b"\0\5\x16\7 no image")
    return written
