"""D: mean squared error, Kullback-Leibler divergence and the standardisation, against NumPy and SciPy."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy, zscore

from nnunetv2_dsvm.distillation.distances import FeatureDistance, standardise_over_channels


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(3)
    return [3 * torch.randn(2, 5, 4, 3, generator=generator, dtype=torch.float64) for _ in range(2)]


def kl_by_pixel(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """The definition, one pixel at a time: T^2 * mean over batch and pixels of sum_c p_t log(p_t / p_s)."""
    values = []
    for b, _, y, x in np.ndindex(student.shape[0], 1, *student.shape[2:]):
        p_teacher = softmax(teacher[b, :, y, x] / temperature)
        p_student = softmax(student[b, :, y, x] / temperature)
        values.append(entropy(p_teacher, p_student))
    return temperature**2 * np.mean(values)


def test_mse_is_the_mean_over_all_elements(maps):
    student, teacher = maps
    expected = np.sum((student.numpy() - teacher.numpy()) ** 2) / student.numel()
    assert FeatureDistance("mse")(student, teacher).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_is_scipys_relative_entropy_of_teacher_and_student(maps, temperature):
    student, teacher = maps
    value = FeatureDistance("kl", temperature)(student, teacher).item()
    assert value == pytest.approx(kl_by_pixel(student.numpy(), teacher.numpy(), temperature), rel=1e-10)


def test_kl_has_the_closed_form_of_two_channels():
    student = torch.tensor([0.0, 0.0], dtype=torch.float64).reshape(1, 2, 1, 1)  # p = (1/2, 1/2)
    teacher = torch.tensor([np.log(3.0), 0.0], dtype=torch.float64).reshape(1, 2, 1, 1)  # p = (3/4, 1/4)
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert FeatureDistance("kl", 1.0)(student, teacher).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_standardised_distance_is_the_distance_of_z_scores(maps, kind):
    student, teacher = maps
    z_scores = [torch.from_numpy(zscore(m.numpy(), axis=1)) for m in maps]
    value = FeatureDistance(kind, standardise=True)(student, teacher).item()
    assert value == pytest.approx(FeatureDistance(kind)(*z_scores).item(), rel=1e-4)  # eps = 1e-5 in the variance


def test_standardisation_of_a_constant_pixel_is_zero():
    assert torch.equal(standardise_over_channels(torch.full((1, 4, 2, 2), 7.0)), torch.zeros(1, 4, 2, 2))


@pytest.mark.parametrize("standardise", [False, True], ids=["plain", "standardised"])
@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_gradient_of_the_student_is_right_and_the_teacher_gets_none(maps, kind, standardise):
    student, teacher = (m.requires_grad_() for m in maps)
    distance = FeatureDistance(kind, 2.0, standardise)
    distance(student, teacher).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0
    assert torch.autograd.gradcheck(lambda s: distance(s, teacher), student)


@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_distance_of_a_map_to_itself_is_zero(maps, kind):
    assert FeatureDistance(kind)(maps[0], maps[0].clone()).item() == pytest.approx(0, abs=1e-12)


def test_kl_of_extreme_features_is_finite():
    student = torch.tensor([1e4, -1e4]).reshape(1, 2, 1, 1)
    assert torch.isfinite(FeatureDistance("kl", 1.0)(student, -student))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"kind": "cosine"}, "cosine"), ({"temperature": 0.0}, "0.0"), ({"temperature": float("nan")}, "nan")],
    ids=["kind", "temperature-0", "temperature-nan"],
)
def test_wrong_settings_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        FeatureDistance(**arguments)


def test_maps_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 4, 2, 2\).*\(1, 1, 2, 2\)"):
        FeatureDistance()(torch.zeros(1, 4, 2, 2), torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_weighted_distance_is_the_mean_over_what_counts(maps, kind):
    student, teacher = maps
    weight = torch.zeros(2, 1, 4, 3, dtype=torch.float64)
    weight[0, :, 1:3], weight[1, :, 0, 0] = 1, 0.5
    value = FeatureDistance(kind, 1.0)(student, teacher, weight).item()
    s, t = student.numpy(), teacher.numpy()
    if kind == "mse":
        per_pixel = ((s - t) ** 2).mean(axis=1)
    else:
        per_pixel = entropy(softmax(t, axis=1), softmax(s, axis=1), axis=1)
    assert value == pytest.approx(np.average(per_pixel, weights=weight[:, 0].numpy()), rel=1e-10)
    assert FeatureDistance(kind)(student, teacher, torch.zeros_like(weight)).item() == 0
