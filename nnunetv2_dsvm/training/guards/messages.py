"""The sentence with which a training stops instead of going on with numbers that are not finite."""

import os
from collections.abc import Mapping, Sequence

from nnunetv2_dsvm.nnunet.names import BEST, LATEST

ADVICE = (
    "look for NaN or extreme intensities in the images, or lower the learning rate (default_initial_lr in a variant of "
    "the trainer)"
)


def message(
    what: str, *, terms: Mapping[str, float], cases: Sequence[str], channels: Sequence[str], folder: str, advice: str
) -> str:
    """What happened, why as far as it can be known, and how to go on.

    Args:
        what: when and what.
        terms: of the last step's loss.
        cases: whose images are not finite.
        channels: whose intensities have a mean in the plans that is not finite.
        folder: of the checkpoints.
        advice: what to do if it happens again.
    """
    kept = [path for path in (os.path.join(folder, name) for name in (LATEST, BEST)) if os.path.isfile(path)]
    shown = ", ".join(f"{name} {value:.6g}" for name, value in terms.items())
    return (
        f"Training stopped {what}"
        + (f" (terms of the last step: {shown})" if shown else "")
        + (f"; the images of {', '.join(cases)} hold NaN or infinite values" if cases else "")
        + (
            f", as all images do: in the plans, the mean intensity of channel {', '.join(channels)} is not finite, "
            "because a training image is infinite inside a label. Correct that one, plan and preprocess again"
            if channels
            else ""
        )
        + ". No checkpoint was written from this state. "
        + (f"The last good one is {kept[0]}: continue from it with --c. " if kept else "There is none before it. ")
        + f"If it happens again, {advice}."
    )
