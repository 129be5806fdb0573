"""What a library is doing, shown while it does it."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def shown_steps(room: str) -> Iterator[None]:
    """Within it, what a room of the package logs about its steps goes to standard error, a line each.

    Args:
        room: name of its package, whose modules log under their own names.
    """
    logger, handler = logging.getLogger(room), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s …"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
