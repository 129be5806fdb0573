"""Everything that is wrong with a downloaded dataset, in one message."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.listing import visible
from nnunetv2_dsvm.nnunet.names import DATASET_JSON, TRAINING_IMAGES

SHOWN = 4  # of one kind: one cause, such as files of another ending, makes the same problem a hundred times


def check_is_folder(source: Path) -> None:
    """Raises:
    UserError: it is none, an archive for instance, or it is a dataset in nnU-Net's format already.
    """
    if source.is_file():
        raise UserError(f"{source} is a file; unpack the archive, and name the folder that holds what was in it")
    if not source.is_dir():
        raise UserError(f"{source} is not a folder")
    if (source / DATASET_JSON).is_file() and (source / TRAINING_IMAGES).is_dir():
        raise UserError(
            f"{source} is a dataset in nnU-Net's format already (dataset.json, imagesTr): there is nothing to convert. "
            "Put it into nnUNet_raw, as a folder DatasetXXX_Name"
        )


def contents(folder: Path) -> str:
    """The first names in a folder, for a message."""
    return ", ".join(path.name for path in visible(folder)[:10]) or "nothing"


class Problems:
    """Collects what is wrong with the files below `source`, so that all of it is reported at once.

    Args:
        source: the folder the user named; paths are shown relative to it.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self._found: dict[str, list[tuple[str, str]]] = defaultdict(list)  # path and text, by their kind

    def add(self, path: Path | str, text: str) -> None:
        """`path`: the file or folder (or case) that is wrong; `text`: what is wrong, and what was expected."""
        if isinstance(path, Path) and path.is_relative_to(self.source):
            path = path.relative_to(self.source)
        self._found[_kind(text)].append((str(path), text))

    def add_all(self, findings: Iterable[tuple[Path | str, str]]) -> None:
        for path, text in findings:
            self.add(path, text)

    def raise_if_any(self) -> None:
        """
        Raises:
            UserError: something was added; its message lists all of it; many problems of one kind are one line.
        """
        count = sum(map(len, self._found.values()))
        if count:
            lines = [line for of_kind in self._found.values() for line in _listed(of_kind)]
            problems = f"{count} problem{'s' if count > 1 else ''} in {self.source}; nothing was written:"
            raise UserError("\n".join([problems, *lines]))


def _kind(text: str) -> str:
    """What is wrong without the names and numbers in which one file differs from the next."""
    return re.sub(r"((\S*[\d/\\]\S*|\S+\.\w\S*)\s*)+", "# ", text)


def _listed(findings: list[tuple[str, str]]) -> list[str]:
    if len(findings) <= SHOWN:
        return [f"  - {path}: {text}" for path, text in findings]
    (path, text), *others = findings
    alike = ", ".join(other for other, _ in others[: SHOWN - 1])
    return [f"  - {path}: {text}; likewise {alike} and {len(findings) - SHOWN} more"]
