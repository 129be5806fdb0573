"""The JSON files that nnU-Net, this package and users write."""

import json
from pathlib import Path
from typing import Any

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.atomic_write import write_text


def read_json(path: Path, advice: str = "") -> Any:
    """The content of a JSON file.

    Args:
        advice: what to do if it cannot be read, for the message.

    Raises:
        UserError: the file is missing, unreadable or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}" + (f". {advice}" if advice else "")) from error


def read_json_object(path: Path, advice: str = "") -> dict[str, Any]:
    """The same, of a file that must hold an object.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    content = read_json(path, advice)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object" + (f". {advice}" if advice else ""))
    return content


def write_json(path: Path, content: Any, *, indent: int, new: bool = False) -> None:
    """Writes a JSON file in one step; see `atomic_write.replaced_file`.

    Raises:
        FileExistsError: something lies there, though it must be new.
        OSError: it cannot be written.
    """
    write_text(path, json.dumps(content, indent=indent) + "\n", new=new)
