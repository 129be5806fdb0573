"""Slices of a tilted gantry moved within their planes, by parts of pixels too."""

import numpy as np

from nnunetv2_dsvm.dicom.reading.scan import Straightening


def test_parts_of_pixels():
    """A plane of values is interpolated to itself; labels come back to the pixel that they were nearest to."""
    _, y, x = np.indices((3, 9, 11)).astype(float)
    shifts = np.array([[0, 2.25], [0.5, 1.25], [1.75, 0]])  # along x and y
    straightening = Straightening(shifts, (9, 11))
    straight = straightening.straight(10 * y + x)
    assert straight.shape == (3, 9 + 3, 11 + 2)
    for z, (dx, dy) in enumerate(shifts):
        rows, columns = np.indices(straight.shape[1:])
        inside = (rows >= dy) & (rows <= dy + 8) & (columns >= dx) & (columns <= dx + 10)
        np.testing.assert_allclose(straight[z][inside], (10 * (rows - dy) + columns - dx)[inside], atol=1e-9)
        assert (straight[z][~inside] <= straight[z][inside].max()).all()
    labels = np.zeros(straight.shape, np.uint8)
    labels[:, 5, 6] = 1
    for of, (dx, dy) in zip(straightening.as_scanned(labels), shifts, strict=True):
        ((row, column),) = np.argwhere(of)
        assert abs(row + dy - 5) <= 0.5 and abs(column + dx - 6) <= 0.5
