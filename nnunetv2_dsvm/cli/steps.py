"""What a library is doing, shown while it does it."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def shown_steps(room: str, stream: TextIO | None = None, form: str = "%(message)s …") -> Iterator[None]:
    """Within it, what a room of the package logs about its steps is shown.

    Args:
        room: name of its package, whose modules log under their own names.
        stream: by default standard error.
        form: of logging's Formatter.
    """
    logger, handler = logging.getLogger(room), logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(logging.Formatter(form))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
