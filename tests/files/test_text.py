"""The pieces of text that messages and tables are made of."""

import numpy as np
import pytest

from nnunetv2_dsvm.files.text import aligned, by, first_line, last_line


@pytest.mark.parametrize(
    ("error", "first", "last"),
    [
        (RuntimeError("no kernel\n  at line 3\n\n"), "no kernel", "at line 3"),
        (ValueError("\n\nITK ERROR: (0x55)\n short file"), "ITK ERROR: (0x55)", "short file"),
        (MemoryError(), "MemoryError", "MemoryError"),
        (OSError(" \n"), "OSError", "OSError"),
    ],
    ids=["several lines", "empty lines before", "no message", "blanks alone"],
)
def test_lines_of_an_error(error, first, last):
    assert (first_line(error), last_line(error)) == (first, last)


def test_sizes_are_written_as_the_field_does():
    assert by((256, 224)) == "256×224"
    assert by(np.array([1234567, 8])) == "1234567×8"
    assert by((0.8, np.float32(0.8), 2.50)) == "0.8×0.8×2.5"


def test_columns_are_aligned():
    assert aligned([["part", "n"], ["encoder", "12"], ["all", "3"]]) == "part      n\nencoder  12\nall       3"
