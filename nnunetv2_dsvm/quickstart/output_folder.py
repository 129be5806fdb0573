"""The quickstart's output folder: claimed once, remembers what was finished, touches nothing of anybody else's."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.json_files import write_json
from nnunetv2_dsvm.files.listing import visible
from nnunetv2_dsvm.files.places_to_write import check_folder_place

STATE_FILE = "quickstart_state.json"
MADE_BY = "nnUNetv2_dsvm quickstart"


class OutputFolder:
    """A folder with a state file: the options it was made with and the steps that are finished (seconds each).

    Args:
        path: the folder; created if it is missing.
        options: what decides the result. A folder made with other options is refused.

    Raises:
        UserError: `path` is not a folder, holds files that are not ours, or was made with other options.
    """

    def __init__(self, path: Path, options: Mapping[str, Any]) -> None:
        self.path = path
        self._options = dict(options)
        self._finished_s: dict[str, float] = {}
        elsewhere = "Choose another folder with --output."
        check_folder_place(path, "choose another folder with --output")
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not (path / STATE_FILE).exists():
                if visible(path):
                    raise UserError(
                        f"{path} is not empty and was not made by this command (it has no {STATE_FILE}); "
                        f"nothing in it was touched. {elsewhere}"
                    )
                self._save()
                return
            stored_options, finished_s = self._read(elsewhere)
        except OSError as error:
            raise UserError(f"cannot use {path} as the output folder: {error}. {elsewhere}") from error
        if stored_options != self._options:
            raise UserError(
                f"{path} was made with {_words(stored_options)}, and this run has {_words(self._options)}. "
                f"{elsewhere} Or delete {path}, or run again with the options it was made with."
            )
        self._finished_s = finished_s

    def is_finished(self, step: str) -> bool:
        return step in self._finished_s

    @property
    def finished_s(self) -> dict[str, float]:
        """Seconds that each finished step took, in their order."""
        return dict(self._finished_s)

    def once(self, step: str, action: Callable[[], object]) -> None:
        """Do `action` unless an earlier run has finished it; it is recorded when it ends without an error."""
        if self.is_finished(step):
            return
        started = time.monotonic()
        action()
        self._finished_s[step] = round(time.monotonic() - started, 1)
        self._save()

    def _read(self, elsewhere: str) -> tuple[dict[str, Any], dict[str, float]]:
        """The options and the finished steps that the state file holds."""
        try:
            stored = json.loads((self.path / STATE_FILE).read_text(encoding="utf-8"))
            ours = stored["made_by"] == MADE_BY
            ours = ours and isinstance(stored["options"], dict) and isinstance(stored["finished_s"], dict)
        except (ValueError, KeyError, TypeError):
            ours = False
        if not ours:
            raise UserError(f"{self.path / STATE_FILE} is not one of this command's; nothing was touched. {elsewhere}")
        return stored["options"], stored["finished_s"]

    def _save(self) -> None:
        state = {"made_by": MADE_BY, "options": self._options, "finished_s": self._finished_s}
        write_json(self.path / STATE_FILE, state, indent=2)


def _words(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())
