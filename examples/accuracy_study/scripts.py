"""How the study's scripts end."""

import sys
from collections.abc import Callable

from nnunetv2_dsvm.errors import Refusal


def status_of(main: Callable[[], int | None]) -> int:
    """A script's exit status; what it refuses is said in one sentence, with status 1; 130 where it is interrupted."""
    try:
        return main() or 0
    except Refusal as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on", file=sys.stderr)
        return 130
