"""The statistics of paired differences against scipy's and against numbers worked out by hand."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap, t, wilcoxon

from nnunetv2_dsvm.evaluation import paired_statistics as module
from nnunetv2_dsvm.evaluation.paired_statistics import effect_sizes, holm, paired_statistics

RANDOM = np.random.default_rng(3)
NORMAL, SKEWED = RANDOM.normal(0.02, 0.05, 40), RANDOM.exponential(3.0, 25) - 1


@pytest.mark.parametrize("values", [NORMAL, SKEWED])
def test_interval_and_p_are_scipys(values):
    (found,) = paired_statistics([[*values[:7], math.nan, *values[7:]]])
    expected = bootstrap([values], np.mean, method="percentile", n_resamples=50_000, rng=0).confidence_interval
    assert (found.ci_low, found.ci_high) == pytest.approx(tuple(expected), abs=0.02 * values.std())
    assert (found.n, found.mean, found.std) == pytest.approx((len(values), values.mean(), values.std(ddof=1)))
    assert (found.median, found.p_value) == pytest.approx((np.median(values), wilcoxon(values).pvalue))


@pytest.mark.parametrize("values", [NORMAL, SKEWED])
def test_effect_size_and_its_interval_are_scipys(values):
    def d(sample, axis=-1):
        return np.mean(sample, axis) / np.std(sample, axis, ddof=1)

    (found,) = effect_sizes([[*values[:7], math.nan, *values[7:]]])
    expected = bootstrap([values], d, method="percentile", n_resamples=50_000, rng=0).confidence_interval
    assert found.d == pytest.approx(d(values))
    assert (found.ci_low, found.ci_high) == pytest.approx(tuple(expected), abs=0.02)
    assert effect_sizes([NORMAL, -values])[1] == pytest.approx((-found.d, -found.ci_high, -found.ci_low))


@pytest.mark.parametrize("values", [[], [math.nan], [0.5], [0.0] * 4, [-0.25] * 6, [0.1] * 3])
def test_differences_without_spread_have_no_effect_size(values):
    assert np.isnan(effect_sizes([values])[0]).all()


def test_resamples_without_spread_do_not_count():
    (found,) = effect_sizes([[1.0, 3.0]])  # each other resample holds both once, in which d is √2
    assert tuple(found) == pytest.approx((2**0.5,) * 3)


def test_the_interval_is_students_for_many_normal_cases():
    (found,) = paired_statistics([NORMAL])
    half = t.ppf(0.975, len(NORMAL) - 1) * NORMAL.std(ddof=1) / math.sqrt(len(NORMAL))
    assert (found.ci_low, found.ci_high) == pytest.approx((NORMAL.mean() - half, NORMAL.mean() + half), abs=0.1 * half)


def test_a_set_has_the_same_interval_alone_beside_others_and_in_pieces(monkeypatch):
    (alone,) = paired_statistics([SKEWED])
    assert paired_statistics([NORMAL, SKEWED, [math.nan], -SKEWED])[1] == pytest.approx(alone, rel=1e-12)
    monkeypatch.setattr(module, "AT_ONCE", 1000)
    (in_pieces,) = paired_statistics([SKEWED])
    assert in_pieces == pytest.approx(alone, rel=0.05)


def test_of_the_opposite_sign_everything_is_mirrored():
    one, other = paired_statistics([SKEWED, -SKEWED])
    assert (other.mean, other.ci_low, other.ci_high) == pytest.approx((-one.mean, -one.ci_high, -one.ci_low))
    assert other.p_value == one.p_value


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], (0, *[math.nan] * 6)),
        ([math.nan], (0, *[math.nan] * 6)),
        ([0.5], (1, 0.5, math.nan, math.nan, math.nan, 0.5, 1.0)),
        ([0.0] * 4, (4, 0, 0, 0, 0, 0, math.nan)),
        ([-0.25] * 6, (6, -0.25, -0.25, -0.25, 0, -0.25, 2 / 2**6)),
    ],
)
def test_few_or_equal_differences(values, expected):
    assert paired_statistics([values])[0] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02, math.nan, 0.04], [0.04, math.nan, 0.04]),
        ([0.3], [0.3]),
    ],
)
def test_holms_correction(p, expected):
    assert holm(p) == pytest.approx(expected, nan_ok=True)
