"""Outlines as polygons: filled again by scikit-image, they are the mask."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.draw import polygon2mask

from nnunetv2_dsvm.dicom.writing.contours import outlines


def filled(polygons, shape):
    result = np.zeros(shape, bool)
    for xy in polygons:
        result |= polygon2mask(shape, xy[:, ::-1])
    return result


def ring(thickness):
    mask = np.zeros((30, 40), bool)
    mask[3:27, 3:37] = True
    mask[3 + thickness : 27 - thickness, 3 + thickness : 37 - thickness] = False
    return mask


def nested():
    mask = ring(3)
    mask[10:20, 10:30] = True
    mask[13:17, 14:18] = mask[12:18, 22:28] = False
    mask[14, 24] = True
    return mask


@pytest.mark.parametrize("mask", [ring(1), ring(4), nested(), np.ones((5, 6), bool), np.eye(6, dtype=bool)])
def test_holes_and_edges(mask):
    polygons = outlines(mask)
    np.testing.assert_array_equal(filled(polygons, mask.shape), mask)
    assert len(polygons) == ndimage.label(mask)[1]
    for xy in polygons:
        assert (xy[0] != xy[-1]).any() and len(xy) >= 4


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 0.9), st.integers(1, 24), st.integers(1, 24))
def test_any_mask(seed, share, height, width):
    mask = np.random.default_rng(seed).random((height, width)) < share
    np.testing.assert_array_equal(filled(outlines(mask), mask.shape), mask)
