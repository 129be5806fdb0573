"""Colours of labels: seen on the image, by the colour-blind too, and one for each class in all pictures."""

import matplotlib.image
import numpy as np
import pytest
from helpers.report_models import Drawn, make_model
from skimage import color

from nnunetv2_dsvm.nnunet.trained_model import TrainedModel
from nnunetv2_dsvm.reporting.case_picture import write_case_picture
from nnunetv2_dsvm.reporting.case_slices import colours_of_classes, read_case_slices
from nnunetv2_dsvm.reporting.label_colours import LABEL_COLOURS, choose_label_colours

PALETTE = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in LABEL_COLOURS])
SKIN, MOLE, ORANGE_SKIN, ORANGE_MOLE = (214, 168, 140), (110, 66, 50), (201, 135, 83), (150, 78, 40)
USUAL = list(LABEL_COLOURS)


def picture(around, inside, n: int = 1):
    """A disc in `n` sectors, each a label, on a plain ground with a little noise."""
    y, x = np.indices((64, 80)) - np.array([32, 40])[:, None, None]
    disc, sector = np.hypot(y, x) < 22, ((np.arctan2(y, x) + np.pi) / (2 * np.pi) * n).astype(int) % n
    rgb = np.where(disc[..., None], inside, around) / 255 + np.random.default_rng(0).normal(0, 0.02, (64, 80, 3))
    return np.clip(rgb, 0, 1), [disc & (sector == i) for i in range(n)]


def grey_picture(around: int, inside: int, n: int = 1):
    rgb, masks = picture((around,) * 3, (inside,) * 3, n)
    return np.repeat(rgb[..., :1], 3, axis=-1), masks


def fill_seen(code: str, rgb) -> float:
    """CIE76 between a pixel and the same pixel filled at 28 %."""
    pixel, paint = np.array(rgb) / 255, PALETTE[LABEL_COLOURS.index(code)]
    return float(np.linalg.norm(color.rgb2lab(0.72 * pixel + 0.28 * paint) - color.rgb2lab(pixel)))


def outline_seen(code: str, rgb) -> float:
    """CIEDE2000 between the colour and the image."""
    paint = PALETTE[LABEL_COLOURS.index(code)]
    return float(color.deltaE_ciede2000(color.rgb2lab(paint), color.rgb2lab(np.array(rgb) / 255)))


def seen_by_the_colour_blind(rgb: np.ndarray) -> list[np.ndarray]:
    """CIELAB of colours `(n, 3)` as protanopia and deuteranopia show them (Machado et al. 2009, severity 1)."""
    linear = color.rgb2xyz  # scikit-image linearises; its matrix is undone to simulate in linear sRGB
    to_xyz = linear(np.eye(3)[None])[0].T  # columns: the primaries
    in_linear_rgb = linear(rgb[None])[0] @ np.linalg.inv(to_xyz).T
    found = []
    for simulated in (
        np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
        np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    ):
        found.append(color.xyz2lab((np.clip(in_linear_rgb @ simulated.T, 0, 1) @ to_xyz.T)[None])[0])
    return found


def test_label_colours_are_told_apart_by_the_colour_blind():
    for lab in seen_by_the_colour_blind(PALETTE):
        distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1000 * np.eye(len(lab))
        assert distance.min() > 10


@pytest.mark.parametrize(("skin", "lesion"), [(SKIN, MOLE), (ORANGE_SKIN, ORANGE_MOLE), (MOLE, SKIN)])
def test_a_lesion_on_skin_is_not_orange(skin, lesion):
    (chosen,) = choose_label_colours([picture(skin, lesion)], 1)
    usual = USUAL[0]
    for rgb in (skin, lesion):
        assert outline_seen(chosen, rgb) > max(30, 1.4 * outline_seen(usual, rgb))
        assert fill_seen(chosen, rgb) > max(20, 1.3 * fill_seen(usual, rgb))
        for lab in seen_by_the_colour_blind(np.array([PALETTE[LABEL_COLOURS.index(chosen)], np.array(rgb) / 255])):
            assert np.linalg.norm(lab[0] - lab[1]) > 40


@pytest.mark.parametrize("n", [1, 3, 7])
@pytest.mark.parametrize(("around", "inside"), [(0, 128), (128, 70), (255, 200), (40, 20)])
def test_on_grey_images_every_label_keeps_its_usual_colour(around, inside, n):
    assert choose_label_colours([grey_picture(around, inside, n)], n) == USUAL[:n]


@pytest.mark.parametrize(
    ("around", "inside"),
    [((230, 180, 210), (120, 70, 150)), ((180, 80, 30), (120, 20, 10)), ((120, 180, 230), (90, 150, 200)),
     ((80, 140, 60), (60, 110, 40)), ((250, 250, 250), (240, 228, 66)), (SKIN, SKIN), (ORANGE_SKIN, ORANGE_MOLE)],
)  # fmt: skip
def test_whatever_the_image_the_first_labels_are_seen(around, inside):
    """Stained tissue, fundus, sky, grass, a bright yellow object, plain skin: one, two and three labels."""
    for n in (1, 2, 3):
        chosen = choose_label_colours([picture(around, inside, n)], n)
        assert len(set(chosen)) == n
        assert min(fill_seen(code, rgb) for code in chosen for rgb in (around, inside)) > 10, chosen


def test_a_class_has_one_colour_in_all_pictures_and_no_two_classes_share_one():
    pictures = [picture(SKIN, MOLE, 2), grey_picture(128, 60, 2), picture((60, 60, 60), (0, 100, 170), 2)]
    chosen = choose_label_colours(pictures, 2)
    assert chosen == choose_label_colours(pictures[::-1], 2) and chosen[0] != chosen[1]
    for code in chosen:
        assert min(fill_seen(code, rgb) for rgb in (SKIN, MOLE, (128,) * 3)) > 10


def test_more_labels_than_colours_repeat_them_and_labels_that_are_nowhere_keep_theirs():
    chosen = choose_label_colours([picture(SKIN, MOLE, 10)], 10)
    assert sorted(chosen[:7]) == sorted(LABEL_COLOURS) and chosen[7:] == chosen[:3]
    nothing = [np.zeros((64, 80), bool)] * 3
    assert choose_label_colours([(picture(SKIN, MOLE)[0], nothing)], 3) == USUAL[:3]
    assert choose_label_colours([], 2) == USUAL[:2]


def test_the_picture_of_a_case_has_the_chosen_colours(tmp_path, monkeypatch):
    drawn = Drawn(tmp_path, "RGB", cases=2).write()
    monkeypatch.setenv("nnUNet_raw", str(drawn.raw.parent))
    model = TrainedModel(make_model(drawn, "a", shift=4, folds=1, epochs=1))
    name = drawn.case(1)
    (case,) = read_case_slices(
        model,
        images=model.image_files(name),
        truth=model.reference_file(name, None),
        predictions={"prediction": model.validation_folder("0") / f"{name}.png"},
    )
    (chosen,) = colours_of_classes([case], model.labels)
    assert chosen != USUAL[0]
    write_case_picture(tmp_path / "case.png", [case], model.labels, [chosen])
    pixels = matplotlib.image.imread(tmp_path / "case.png")[..., :3]
    pixels = pixels[: int(0.85 * len(pixels))]  # without the legend
    near = [np.abs(pixels - rgb).max(axis=-1) < 0.02 for rgb in (PALETTE[LABEL_COLOURS.index(chosen)], PALETTE[0])]
    assert near[0].sum() > 300 and not near[1].any()
