"""What a fold lacks before it can be evaluated, and the command that makes it."""

from pathlib import Path

from nnunetv2_dsvm.nnunet.names import CHECKPOINTS, FINAL, fold_folder, validation_folder


def what_a_fold_lacks(model: Path, fold: str, dataset: str) -> str:
    """In a sentence: never trained, not trained to its end, or not validated.

    Args:
        model: the folder `TRAINER__PLANS__CONFIGURATION`.
        fold: a number or `all`; one without a finished validation.
        dataset: number or name, for the command.
    """
    trainer, plans, configuration = model.name.rsplit("__", 2)
    command = f"nnUNetv2_train {dataset} {configuration} {fold} -tr {trainer} -p {plans}"
    folder, name = fold_folder(model, fold), f"fold {fold} of {model.name}"
    present = [checkpoint for checkpoint in CHECKPOINTS if (folder / checkpoint).is_file()]
    if FINAL in present:
        return f"{name} has no finished validation; make it with {command} --val"
    if present:
        return f"{name} is not trained to its end ({present[0]}); finish it with {command} --c"
    if any(folder.glob("training_log_*")) or validation_folder(model, fold).is_dir():
        return f"{name} was begun but has left no checkpoint; train it again with {command}"
    return f"{name} was never trained; train it with {command}"
