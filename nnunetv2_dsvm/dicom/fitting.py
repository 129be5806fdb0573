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
    elif channels > 1:
        return f"one channel, and the model takes {channels} ({names})"
    elif not model.reads_volumes:
        return f"a volume, and the model takes pictures ({model.file_ending})"
    wanted = {_modality(name) for name in model.channel_names} - {None, series.kind}
    return f"{series.kind}, and the model takes {names}" if wanted else None


def _modality(channel: str) -> str | None:
    """That a channel's name stands for; None for what may be of any."""
    if channel.upper() == "CT":
        return "CT"
    return "MR" if _OF_MR.search(channel.replace("_", " ")) else None
