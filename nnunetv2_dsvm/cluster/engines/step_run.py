"""One step in this process: under its lock, by its commands, with its state on the disk before and after."""

import os
import shlex
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

from nnunetv2_dsvm.cluster.commands import commands_of
from nnunetv2_dsvm.cluster.engines import child
from nnunetv2_dsvm.cluster.engines.gpus import GpuMemory
from nnunetv2_dsvm.cluster.finished import is_done, is_trained
from nnunetv2_dsvm.cluster.locks import Held, held, this_process
from nnunetv2_dsvm.cluster.preparation import has_splits, write_splits
from nnunetv2_dsvm.cluster.run_folder import RunFolder, State, model_folder, variables_of
from nnunetv2_dsvm.cluster.steps import Step
from nnunetv2_dsvm.errors import Refusal, UserError
from nnunetv2_dsvm.files.text import last_line
from nnunetv2_dsvm.nnunet.commands import runnable
from nnunetv2_dsvm.nnunet.unfinished_folds import what_a_fold_lacks

DONE, FAILED, HELD, INTERRUPTED = 0, 1, 75, 143  # exit statuses; 75: try again later (sysexits.h)
ALONE = "NNUNETV2_DSVM_GPU_ALONE"  # set where a training has its GPU to itself
_TAIL_LINES, _TAIL_BYTES = 12, 2**14


def run_step(run: RunFolder, name: str) -> int:
    """Does a step, unless it is done or somebody else is at it.

    SIGTERM, SIGINT and SIGUSR1 end its command; what the command has saved is where the next call goes on.

    Returns:
        An exit status: `DONE`, `FAILED`, `HELD` or `INTERRUPTED`.
    """
    step = run.steps[name]
    child.stop_on_signals()
    try:
        with held(run.step_lock(step), name) as lock:
            return _run_locked(run, step, lock)
    except Held as error:
        _say(run.log(name), str(error))
        return HELD
    except child.Stopped:
        return INTERRUPTED


def _run_locked(run: RunFolder, step: Step, lock: int) -> int:
    earlier = run.state(step.name)
    peak = earlier.gpu_memory_mib if earlier is not None else None
    state = State(
        "running", (*step.after, *step.after_any), time.time(), process=str(this_process()), gpu_memory_mib=peak
    )
    log, gpu = run.log(step.name), GpuMemory(alone=bool(os.environ.get(ALONE)) and step.needs_gpu)
    begin = log.stat().st_size if log.is_file() else 0

    def ended(how: str, **more: object) -> None:
        peaks = [value for value in (peak, gpu.peak_mib) if value is not None]
        memory = max(peaks) if peaks else None
        run.write_state(step.name, replace(state, state=how, ended=time.time(), gpu_memory_mib=memory, **more))  # type: ignore[arg-type]

    if is_done(run, step):  # nothing that it depends on has changed, or another call did it
        return DONE
    run.write_state(step.name, state)
    try:
        _work(run, step, log, lock, gpu)
    except child.Stopped as stopped:
        ended("interrupted", reason=str(stopped))
        raise
    except Exception as error:  # whatever it is, the step has failed, and says so
        _say(log, str(error) if isinstance(error, Refusal) else traceback.format_exc())
        tail = _tail(log, begin)
        ended("failed", reason=tail[-1] if isinstance(error, _CommandFailed) else last_line(error), tail=tuple(tail))
        return FAILED
    ended("done")
    return DONE


class _CommandFailed(UserError):
    """A command ended with another exit status than 0, after it has said why."""


def failure(command: str, status: int) -> UserError:
    """Why a step has failed whose command ended with a status other than 0; one that was killed could not say it."""
    if -status == signal.SIGKILL:
        return UserError(f"{command} was killed (SIGKILL), as Linux does where memory runs out")
    return _CommandFailed(f"{command} failed")


def _work(run: RunFolder, step: Step, log: Path, lock: int, gpu: GpuMemory) -> None:
    environment = {**os.environ, **variables_of(step)}
    with commands_of(run, step) as commands:
        for command in commands:
            _say(log, f"$ {shlex.join(command)}")
            status = child.run(runnable(command), environment, log, [lock], gpu)
            if -status in child.STOPS or status - 128 in child.STOPS:  # SLURM tells all of a job's processes
                raise child.Stopped(abs(status) % 128)
            if status != 0:
                raise failure(command[0], status)
    if step.kind == "train" and step.model is not None and not is_trained(step):
        lacks = what_a_fold_lacks(model_folder(step.model).folder, step.fold, step.dataset)
        raise UserError(f"nnUNetv2_train ended without an error, but {lacks}")
    if step.kind == "prepare" and run.request.folds != ("all",) and not has_splits(step.dataset):
        write_splits(step.dataset, run.request)
    if step.kind == "report":
        from nnunetv2_dsvm.cluster.results import write_results  # imports torch, which no other step needs here

        write_results(run)


def _say(log: Path, line: str) -> None:
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def _tail(log: Path, begin: int) -> list[str]:
    """The last lines of what was written since, without our own last one."""
    with open(log, "rb") as file:
        file.seek(max(begin, log.stat().st_size - _TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.rstrip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1 - _TAIL_LINES : -1] or lines[-1:]


def main(arguments: list[str]) -> int:
    folder, name = arguments
    return run_step(RunFolder(Path(folder)), name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
