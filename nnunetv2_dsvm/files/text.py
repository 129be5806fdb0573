"""Pieces of the text that messages and tables are made of."""

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import SupportsFloat


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or the name of its kind where it says nothing.

    torch's messages go on with advice and places in its source code.
    """
    return _lines(error)[0]


def last_line(error: BaseException) -> str:
    """The last line of what an error says: what is wrong, behind the traceback or the places that ITK begins with."""
    return _lines(error)[-1]


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]


def by(sizes: Iterable[SupportsFloat]) -> str:
    """Sizes along the axes of a patch, an image or a voxel: `256×224`, `0.8×0.8×2.5`."""
    return "×".join(str(size) if isinstance(size, Integral) else f"{float(size):.6g}" for size in sizes)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
