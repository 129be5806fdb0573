"""How a refusal ends one of nnU-Net's commands: in its sentence alone instead of under a traceback."""

import os
import sys
from pathlib import Path
from types import TracebackType

from nnunetv2_dsvm.errors import Refusal
from nnunetv2_dsvm.nnunet.folders import unusable_folders

SWITCH = "NNUNETV2_DSVM_TRACEBACK"
# Where nnU-Net itself refuses variables, datasets and configurations, in sentences for the user.
_VARIABLES, _DATASETS = "nnunetv2.paths", "nnunetv2.utilities.dataset_name_id_conversion"
_NNUNETS_OWN = (_VARIABLES, _DATASETS, "nnunetv2.utilities.plans_handling.plans_handler")


def end_in_a_sentence() -> None:
    """Lets the running program, if it is a command of nnU-Net's, show a refusal as its sentence alone.

    Every other exception keeps its traceback, the exit status stays 1, and an excepthook that somebody has set gets the
    refusal without its traceback. `NNUNETV2_DSVM_TRACEBACK=1` shows all of them whole. The processes of `-num_gpus`
    are not reached: torch writes their tracebacks, in which the sentence comes last.
    """
    if not _is_nnunets_command():
        return
    before = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        sentence = "" if os.environ.get(SWITCH, "0").strip() not in ("", "0") else _sentence(error, traceback)
        if not sentence:
            before(kind, error, traceback)
        elif before is sys.__excepthook__:
            sys.stdout.flush()  # what was printed before must not come after it
            print(f"\n{Path(sys.argv[0]).name}: {sentence}", file=sys.stderr, flush=True)
        else:
            error.__cause__ = error.__context__ = None
            before(kind, error.with_traceback(None), None)

    sys.excepthook = show


def _is_nnunets_command() -> bool:
    spec = getattr(sys.modules["__main__"], "__spec__", None)  # of python -m
    return Path(*sys.argv[:1]).name.startswith("nnUNetv2_") or (spec is not None and spec.name.startswith("nnunetv2."))


def _sentence(error: BaseException, traceback: TracebackType | None) -> str:
    if isinstance(error, Refusal):
        return str(error)
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    raised_in = "" if traceback is None else traceback.tb_frame.f_globals.get("__name__")
    if isinstance(error, FileNotFoundError):
        return _missing_plans(Path(str(error.filename)))
    if not isinstance(error, RuntimeError) or raised_in not in _NNUNETS_OWN:
        return ""
    unusable = unusable_folders("raw", "preprocessed", "results") if raised_in in (_VARIABLES, _DATASETS) else ""
    if raised_in == _VARIABLES and unusable:
        return unusable
    nnunets = " ".join(str(error).split())
    return f"{nnunets.split('. ')[0]}. {unusable}" if unusable else nnunets


def _missing_plans(file: Path) -> str:
    """What to do where nnU-Net has not found a file of plans; empty where it is another one."""
    preprocessed = os.environ.get("nnUNet_preprocessed")
    if not preprocessed or file.suffix != ".json" or file.parent.parent != Path(preprocessed):
        return ""
    return f"{file} is missing: plan and preprocess the dataset first (nnUNetv2_plan_and_preprocess), or correct -p"
