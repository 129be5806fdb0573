"""What a label is in coded terms: a table for common organs and structures, and a file for all others.

The codes are SNOMED CT's as pydicom has them from the DICOM standard's context groups, named by its keywords.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.json_files import read_json_object

# DICOM's types SH and LO; a coding scheme's name is a SH too.
LONGEST_VALUE, LONGEST_MEANING = 16, 64

# Words of a label, without its side, to pydicom's keyword.
_ANATOMY = {
    "adrenal gland": "AdrenalGland", "aorta": "Aorta", "bladder": "Bladder", "brain": "Brain", "breast": "Breast",
    "bone": "Bone", "cerebellum": "Cerebellum", "clavicle": "Clavicle", "clavicula": "Clavicle", "colon": "Colon",
    "costal cartilages": "CostalCartilage", "duodenum": "Duodenum", "esophagus": "Esophagus", "eye": "Eye",
    "femur": "Femur", "fibula": "Fibula", "gall bladder": "Gallbladder", "gallbladder": "Gallbladder",
    "heart": "Heart", "heart atrium left": "LeftAtrium", "heart atrium right": "RightAtrium",
    "heart ventricle left": "LeftVentricle", "heart ventricle right": "RightVentricle", "hippocampus": "Hippocampus",
    "humerus": "Humerus", "iliac artery": "CommonIliacArtery", "inferior vena cava": "InferiorVenaCava",
    "ivc": "InferiorVenaCava", "kidney": "Kidney", "kidneys": "Kidney", "larynx": "Larynx", "left atrium": "LeftAtrium",
    "left ventricle": "LeftVentricle", "lens": "Lens", "liver": "Liver", "lung": "Lung", "lungs": "Lung",
    "lung lower lobe": "LowerLobeOfLung", "lung middle lobe": "MiddleLobeOfRightLung",
    "lung upper lobe": "UpperLobeOfLung", "lymph node": "LymphNode", "lymph nodes": "LymphNode",
    "mandible": "Mandible", "muscle": "Muscle", "oesophagus": "Esophagus", "optic nerve": "OpticNerve",
    "ovary": "Ovary", "pancreas": "Pancreas", "parotid": "ParotidGland", "parotid gland": "ParotidGland",
    "patella": "Patella", "pharynx": "Pharynx", "portal vein": "PortalVein", "prostate": "Prostate",
    "pulmonary artery": "PulmonaryArtery", "pulmonary vein": "PulmonaryVein", "radius": "Radius", "rectum": "Rectum",
    "rib": "Rib", "ribs": "Rib", "right atrium": "RightAtrium", "right ventricle": "RightVentricle",
    "sacrum": "Sacrum", "scapula": "Scapula", "skin": "Skin", "skull": "Skull", "small bowel": "SmallIntestine",
    "small intestine": "SmallIntestine", "spinal cord": "SpinalCord", "spleen": "Spleen",
    "splenic vein": "SplenicVein", "sternum": "Sternum", "stomach": "Stomach",
    "superior vena cava": "SuperiorVenaCava", "testis": "Testis", "thyroid": "Thyroid", "thyroid gland": "Thyroid",
    "tibia": "Tibia", "trachea": "Trachea", "ulna": "Ulna", "ureter": "Ureter", "urinary bladder": "Bladder",
    "uterus": "Uterus", "vertebra": "Vertebra", "vertebrae": "Vertebra",
    **{f"vertebrae {name}".lower(): f"{name}Vertebra" for name in ["C1", "C2", "C3", "C4", "C5", "C6", "C7"]},
    **{f"vertebrae {name}".lower(): f"{name}Vertebra" for name in ["L1", "L2", "L3", "L4", "L5"]},
}  # fmt: skip
_ABNORMAL = {
    "cyst": "Cyst", "edema": "Edema", "hemorrhage": "Hemorrhage", "lesion": "Lesion", "lesions": "Lesion",
    "mass": "Mass", "necrosis": "Necrosis", "nodule": "Nodule", "oedema": "Edema", "skin lesion": "SkinLesion",
    "tumor": "Neoplasm", "tumors": "Neoplasm", "tumour": "Neoplasm", "neoplasm": "Neoplasm",
}  # fmt: skip
_SIDES = {"left": codes.SCT.Left, "right": codes.SCT.Right}


@dataclass(frozen=True)
class Term:
    """What a segment shows.

    Attributes:
        category: e.g. anatomical structure.
        type: e.g. kidney.
        modifier: e.g. left; None where the type says it all.
    """

    category: Code
    type: Code
    modifier: Code | None = None


def terms_of(labels: Iterable[str], file: Path | None) -> dict[str, Term]:
    """The term of each label: the file's, else the table's, else a tissue that only the label names.

    Args:
        labels: names of dataset.json.
        file: JSON, `{"label": {"type": [value, scheme, meaning], "category": […], "modifier": […]}}`; the category
            (by default an anatomical structure) and the modifier may be left out.

    Raises:
        UserError: the file cannot be read, names a label that there is not, or holds no codes.
    """
    labels = list(labels)
    own = read_json_object(file, "Name another file with --terminology") if file is not None else {}
    if unknown := [name for name in own if name not in labels]:
        raise UserError(f"{file} names {', '.join(unknown)}, and the model's labels are {', '.join(labels)}")
    return {name: _from_file(own[name], name, file) if name in own else default_term(name) for name in labels}


def default_term(label: str) -> Term:
    """The table's term for a label, whose words may stand in any spelling: `Kidney (left)`, `left_kidney`."""
    words = [word for word in re.split(r"[^a-z0-9]+", label.lower()) if word]
    for sided in ([], [word for word in words if word in _SIDES]):
        if len(sided) > 1:
            break
        name = " ".join(word for word in words if word not in sided)
        for table, category in (
            (_ANATOMY, codes.SCT.AnatomicalStructure),
            (_ABNORMAL, codes.SCT.MorphologicallyAbnormalStructure),
        ):
            if name in table:
                return Term(category, getattr(codes.SCT, table[name]), _SIDES[sided[0]] if sided else None)
    return Term(codes.SCT.Tissue, codes.SCT.Tissue)


def _from_file(entry: Any, label: str, file: Path | None) -> Term:
    if not isinstance(entry, Mapping) or "type" not in entry or not {"type", "category", "modifier"} >= entry.keys():
        raise UserError(
            f'{file} says of {label} {entry!r}, expected {{"type": …}}, a "category" and a "modifier" or not'
        )
    found = {key: _code(value, label, file) for key, value in entry.items()}
    return Term(found.get("category", codes.SCT.AnatomicalStructure), found["type"], found.get("modifier"))


def _code(value: Any, label: str, file: Path | None) -> Code:
    limits = (LONGEST_VALUE, LONGEST_VALUE, LONGEST_MEANING)
    if not (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(part, str) and 0 < len(part.strip()) <= n for part, n in zip(value, limits, strict=True))
        and all(part.isprintable() and "\\" not in part for part in value)
    ):
        raise UserError(
            f"{file} has the code {value!r} for {label}, expected [value, scheme, meaning], texts of at most "
            f"{LONGEST_VALUE}, {LONGEST_VALUE} and {LONGEST_MEANING} characters without backslashes and line breaks"
        )
    return Code(*(part.strip() for part in value))
