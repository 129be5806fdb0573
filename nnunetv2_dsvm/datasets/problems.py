"""Everything that is wrong with a downloaded dataset, in one message."""

from collections.abc import Iterable
from pathlib import Path

from nnunetv2_dsvm.errors import UserError


def check_is_folder(source: Path) -> None:
    """Raises:
    UserError: it is none, an archive for instance.
    """
    if source.is_file():
        raise UserError(f"{source} is a file; unpack the archive, and name the folder that holds what was in it")
    if not source.is_dir():
        raise UserError(f"{source} is not a folder")


class Problems:
    """Collects what is wrong with the files below `source`, so that all of it is reported at once.

    Args:
        source: the folder the user named; paths are shown relative to it.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self._found: list[str] = []

    def add(self, path: Path | str, text: str) -> None:
        """`path`: the file or folder (or case) that is wrong; `text`: what is wrong, and what was expected."""
        if isinstance(path, Path) and path.is_relative_to(self.source):
            path = path.relative_to(self.source)
        self._found.append(f"{path}: {text}")

    def add_all(self, findings: Iterable[tuple[Path | str, str]]) -> None:
        for path, text in findings:
            self.add(path, text)

    def raise_if_any(self) -> None:
        """
        Raises:
            UserError: something was added; its message lists all of it.
        """
        if self._found:
            count = f"{len(self._found)} problem{'s' if len(self._found) > 1 else ''}"
            listed = "\n".join(f"  - {finding}" for finding in self._found)
            raise UserError(f"{count} in {self.source}; nothing was written:\n{listed}")
