"""Surface distances against medpy, against a brute-force computation and against closed forms."""

import math

import numpy as np
import pytest
from medpy.metric import binary
from scipy import ndimage

from nnunetv2_dsvm.evaluation.surface import surface_distances

SPACINGS = [(1.0, 1.0, 1.0), (2.5, 0.8, 0.7), (0.3, 4.0, 1.1)]


def random_masks(seed, shape=(9, 13, 11)):
    """From noise to smooth blobs, touching the border or not."""
    random = np.random.default_rng(seed)
    smooth = [ndimage.gaussian_filter(random.normal(size=shape), seed % 3) for _ in range(2)]
    return [s > np.quantile(s, random.uniform(0.3, 0.95)) for s in smooth]


def brute_force(a, b, spacing):
    """All pairwise distances between the surfaces, voxel by voxel from the definition."""

    def surface(mask):
        points = []
        for index in zip(*np.nonzero(mask), strict=True):
            for axis in range(mask.ndim):
                for step in (-1, 1):
                    neighbour = list(index)
                    neighbour[axis] += step
                    if not 0 <= neighbour[axis] < mask.shape[axis] or not mask[tuple(neighbour)]:
                        points.append(index)
        return np.array(sorted(set(points))) * spacing

    between = np.linalg.norm(surface(a)[:, None] - surface(b)[None], axis=-1)
    return between.min(axis=1), between.min(axis=0)


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_hd95_and_mean_distance_are_medpys(seed, spacing):
    reference, prediction = random_masks(seed)
    d = surface_distances(reference, prediction, spacing)
    assert d.hd95() == pytest.approx(binary.hd95(prediction, reference, voxelspacing=spacing), abs=1e-9)
    assert d.assd() == pytest.approx(binary.assd(prediction, reference, voxelspacing=spacing), abs=1e-9)
    assert d.of_reference.mean() == pytest.approx(binary.asd(reference, prediction, voxelspacing=spacing), abs=1e-9)
    assert d.of_prediction.mean() == pytest.approx(binary.asd(prediction, reference, voxelspacing=spacing), abs=1e-9)


@pytest.mark.parametrize("shape", [(5, 6, 7), (11, 9)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_everything_equals_brute_force(seed, shape):
    spacing = np.array((2.5, 0.8, 0.7))[-len(shape) :]
    reference, prediction = random_masks(seed, shape)
    of_reference, of_prediction = brute_force(reference, prediction, spacing)
    both = np.concatenate([of_reference, of_prediction])
    d = surface_distances(reference, prediction, spacing)
    np.testing.assert_allclose(np.sort(d.of_reference), np.sort(of_reference), atol=1e-9)
    assert d.assd() == pytest.approx(both.mean(), abs=1e-9)
    assert d.hd95() == pytest.approx(np.percentile(both, 95), abs=1e-9)
    for tolerance in (0.0, 1.0, 1.7, 3.0):
        assert d.nsd(tolerance) == pytest.approx((both <= tolerance + 1e-9).mean())


def test_two_parallel_plates():
    """Two plates of one voxel, three rows apart at 0.8 mm: every distance is 2.4 mm."""
    reference, prediction = np.zeros((2, 8, 10, 10), bool)
    reference[2], prediction[5] = True, True
    d = surface_distances(reference, prediction, (0.8, 1, 1))
    assert d.hd95() == pytest.approx(2.4) and d.assd() == pytest.approx(2.4)
    assert d.nsd(2.3) == 0
    assert d.nsd(2.4) == 1  # 3 · 0.8 in floating point is a little more than 2.4


def test_equal_masks():
    mask = random_masks(1)[0]
    d = surface_distances(mask, mask.copy(), (1, 1, 1))
    assert (d.hd95(), d.assd(), d.nsd(0.0)) == (0, 0, 1)


def test_empty_masks():
    mask, empty = random_masks(1)[0], np.zeros((9, 13, 11), bool)
    for a, b in ((mask, empty), (empty, mask)):
        d = surface_distances(a, b, (1, 1, 1))
        assert math.isnan(d.hd95()) and math.isnan(d.assd())
        assert d.nsd(1e6) == 0
    d = surface_distances(empty, empty, (1, 1, 1))
    assert all(math.isnan(value) for value in (d.hd95(), d.assd(), d.nsd(1)))


def test_a_border_with_ignored_voxels_is_no_surface():
    """A bar from row 2 to 9; from row 6 on all is ignored. What is left has its one end at row 2, sides none."""
    reference, prediction, ignored = np.zeros((3, 12, 1), bool)
    reference[2:10], prediction[4:12], ignored[6:] = True, True, True
    mirrored = np.repeat(np.stack([reference, prediction, ignored]), 3, axis=2)
    line = surface_distances(reference[:, 0], prediction[:, 0], (0.5,), ignored[:, 0])
    np.testing.assert_allclose(line.of_reference, [1.0])  # row 2 to row 4; row 5 meets the ignored and is no surface
    np.testing.assert_allclose(line.of_prediction, [1.0])
    filled = surface_distances(*mirrored[:2], (0.5, 1), np.zeros_like(mirrored[2]))
    assert len(filled.of_reference) > 2


def test_what_lies_under_the_ignored_does_not_matter():
    reference, prediction = random_masks(5)
    ignored = np.zeros_like(reference)
    ignored[3:6, 4:9, 2:8] = True
    expected = surface_distances(reference, prediction, (1, 2, 3), ignored)
    random = np.random.default_rng(0)
    for mask in (reference, prediction):
        mask[ignored] = random.random(ignored.sum()) < 0.5
    changed = surface_distances(reference, prediction, (1, 2, 3), ignored)
    np.testing.assert_array_equal(changed.of_reference, expected.of_reference)
    np.testing.assert_array_equal(changed.of_prediction, expected.of_prediction)
