"""Codes of common labels: those of SNOMED CT, written down here from the standard's context groups."""

import pytest

from nnunetv2_dsvm.dicom.writing.terminology import default_term

ANATOMY, ABNORMAL, TISSUE = "91723000", "49755003", "85756007"


@pytest.mark.parametrize(
    ("label", "category", "code", "side"),
    [
        ("liver", ANATOMY, "10200004", None),
        ("Spleen", ANATOMY, "78961009", None),
        ("left_kidney", ANATOMY, "64033007", "7771000"),
        ("Kidney (right)", ANATOMY, "64033007", "24028007"),
        ("kidney_left", ANATOMY, "64033007", "7771000"),
        ("left ventricle", ANATOMY, "87878005", None),  # the heart's: no side of anything else
        ("heart_atrium_right", ANATOMY, "73829009", None),
        ("urinary_bladder", ANATOMY, "89837001", None),
        ("vertebrae_L3", ANATOMY, "36470004", None),
        ("aorta", ANATOMY, "15825003", None),
        ("skin lesion", ABNORMAL, "95324001", None),
        ("tumour", ABNORMAL, "108369006", None),
        ("left_right_kidney", TISSUE, TISSUE, None),
        ("something else", TISSUE, TISSUE, None),
        ("", TISSUE, TISSUE, None),
    ],
)
def test_common_labels(label, category, code, side):
    term = default_term(label)
    assert (term.category.value, term.type.value) == (category, code)
    assert {term.category.scheme_designator, term.type.scheme_designator} == {"SCT"}
    assert (term.modifier.value if term.modifier else None) == side
