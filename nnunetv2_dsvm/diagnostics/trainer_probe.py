"""Looks for trainers as `nnUNetv2_train` does. Its program's arguments: RESULT_FILE NAME….

Nothing here may register the trainers by itself, as an import of this package would: that a fresh process finds them is
what is tested.
"""

import json
import sys
from pathlib import Path


def find_trainers(names: list[str]) -> dict[str, dict[str, str | None]]:
    """For each trainer the module it comes from, or the error of nnU-Net's look-up."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    found = {}
    for name in names:
        try:
            found[name] = {"module": recursive_find_trainer_class_by_name(name).__module__, "error": None}
        except Exception as error:
            first_line = str(error).strip().partition("\n")[0]
            found[name] = {"module": None, "error": f"{type(error).__name__}: {first_line}"}
    return found


if __name__ == "__main__":
    answer = json.dumps(find_trainers(sys.argv[2:]))
    Path(sys.argv[1]).write_text(answer, encoding="utf-8")
