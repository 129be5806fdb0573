"""The weights that nnU-Net is about to start a training from: the file of -pretrained_weights."""

import sys

_NNUNETS_FUNCTIONS = ("run_training", "run_ddp")
_NOT_STARTING = ("continue_training", "only_run_validation", "c", "val")  # as these functions call --c and --val


def weights_to_start_from() -> str | None:
    """The file whose weights nnU-Net will copy into the trainer that it is constructing; None where there is none.

    nnU-Net does not tell the trainer, and looks into the file when the results folder is made already. To refuse an
    unfit file before that, the argument is read where it stands: in the variables of nnU-Net's function, further up.
    """
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name in _NNUNETS_FUNCTIONS and "pretrained_weights" in frame.f_locals:
            starting = not any(frame.f_locals.get(name) for name in _NOT_STARTING)
            return frame.f_locals["pretrained_weights"] if starting else None
        frame = frame.f_back
    return None
