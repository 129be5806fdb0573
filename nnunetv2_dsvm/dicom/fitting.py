"""Whether a series is what a model was trained on, as far as both say: modality, channels, dimensions."""

import re

from nnunetv2_dsvm.dicom.model import Model
from nnunetv2_dsvm.dicom.reading.series import Series
from nnunetv2_dsvm.errors import UserError

# Names of channels in dataset.json that no CT has; nnU-Net itself knows "CT" alone.
_OF_MR = re.compile(
    r"\b(mri?|t[12]\w*|flair|adc|dwi|dti|swi|mprage|tof|lge|cine|pdw?)\b|b-?value|magnetic", re.IGNORECASE
)


def fault_of(series: Series, model: Model) -> str | None:
    """Why a model cannot segment a series, in a few words; None where it can."""
    channels, names = len(model.channel_names), ", ".join(model.channel_names)
    if series.kind is None:
        return "no CT, no MR and no still"
    try:
        if series.is_localizer:
            return "a localizer"
    except UserError as error:
        return str(error)
    if series.kind == "still":
        colours = int(series.headers[0].get("SamplesPerPixel") or 1)
        if colours != channels:
            return f"{colours} channel{'s' * (colours > 1)}, and the model takes {channels} ({names})"
        of_colours = model.reads_natural_images or channels == 3
        return None if of_colours else f"a still, and the model takes {names}"
    if channels > 1:
        return f"one channel, and the model takes {channels} ({names})"
    if not model.reads_volumes:
        return f"a volume, and the model takes pictures ({model.file_ending})"
    (name,) = model.channel_names
    wanted = "CT" if name.upper() == "CT" else "MR" if _OF_MR.search(name.replace("_", " ")) else series.kind
    return None if wanted == series.kind else f"{series.kind}, and the model takes {name}"
