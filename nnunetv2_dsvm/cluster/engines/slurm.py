"""The steps as jobs of SLURM, submitted by submitit, each behind those that it depends on."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nnunetv2_dsvm.cluster.engines.step_run import ALONE, HELD, INTERRUPTED, run_step
from nnunetv2_dsvm.cluster.finished import open_steps
from nnunetv2_dsvm.cluster.preparation import usable_cpus
from nnunetv2_dsvm.cluster.run_folder import RunFolder
from nnunetv2_dsvm.cluster.steps import Step
from nnunetv2_dsvm.errors import UserError

SIGNAL = "USR1"  # before the time is over
SIGNAL_DELAY_S = 120
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


@dataclass(frozen=True)
class SlurmOptions:
    """What is asked of SLURM for every job; None: the cluster's own.

    Args:
        partition: or several, with commas.
        cpus_per_job, mem_gb: of each job.
        minutes: until SLURM ends a job, which goes on in a new one then.
        max_jobs: that run at a time.
        more: further options of sbatch by their long names, such as account or constraint.
    """

    partition: str | None = None
    cpus_per_job: int | None = None
    mem_gb: float | None = None
    minutes: int = 24 * 60
    max_jobs: int | None = None
    more: dict[str, str] = field(default_factory=dict)


def minutes_of(text: str) -> int:
    """Of a time as sbatch takes it: MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS.

    Raises:
        ValueError: of another form.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a time as 48:00:00 or 2-00:00:00, got {text!r}")
    days, *parts = found.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
        return int(days) * 1440 + hours * 60 + minutes + bool(seconds)
    if len(numbers) == 3:
        return numbers[0] * 60 + numbers[1] + bool(numbers[2])
    return numbers[0] + bool(numbers[1:] and numbers[1])


def submit(run: RunFolder, options: SlurmOptions) -> list[str]:
    """Submits what is not done and not in the queue; the names of the steps that were submitted.

    A job that waits in the queue is replaced where it has to wait for one that is submitted now.

    Raises:
        UserError: submitit or SLURM is missing, or SLURM refuses.
    """
    submitit = _submitit()
    queue, jobs = queued(run), run.jobs()
    live = {name: job for name, job in jobs.items() if job in queue}
    lanes: list[list[str]] = [[] for _ in range(options.max_jobs or 0)]
    for number, job in enumerate(live.values()):
        if lanes:
            lanes[number % len(lanes)].append(job)
    submitted: list[str] = []
    for step in open_steps(run):
        earlier = live.get(step.name)
        if earlier and not (queue[earlier].startswith("PENDING") and _waits_for(step, submitted)):
            continue
        lane = lanes[len(submitted) % len(lanes)] if lanes else []
        conditions = [f"afterok:{live[name]}" for name in step.after if name in live]
        conditions += [f"afterany:{job}" for job in [*(live[n] for n in step.after_any if n in live), *lane]]
        executor = submitit.SlurmExecutor(folder=run.path / "submitit")
        try:
            executor.update_parameters(**_parameters(run, step, options, list(dict.fromkeys(conditions))))
            job = executor.submit(run_in_job, run, step.name)
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            raise UserError(f"SLURM has not taken {step.name}: {error}") from error
        live[step.name] = jobs[step.name] = str(job.job_id)
        lane[:] = [live[step.name]]
        submitted.append(step.name)
        run.write_jobs(jobs)
        if earlier:
            subprocess.run(["scancel", earlier], check=False)  # SLURM may have ended it meanwhile
    return submitted


def _waits_for(step: Step, submitted: Sequence[str]) -> bool:
    """Whether a step has to wait for one of these; a job of an earlier call does not know of them."""
    return not {*step.after, *step.after_any}.isdisjoint(submitted)


def run_in_job(run: RunFolder, name: str) -> None:
    """In a job. One that SLURM ends, to make room for another or at the end of its time, is put back into the queue.

    Raises:
        RuntimeError: the step was not done; SLURM counts the job as failed, and starts none that needs it.
    """
    os.environ.setdefault("nnUNet_n_proc_DA", str(min(12, usable_cpus())))
    os.environ[ALONE] = "1"
    status = run_step(RunFolder(run.path), name)
    if status in (INTERRUPTED, HELD) and _job_state() == "RUNNING":
        # Otherwise SLURM has requeued or cancelled it already. Another user may be at the fold: the queue has time.
        subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
    if status:
        raise RuntimeError(f"{name} ended with exit status {status}: see {run.log(name)}")


def queued(run: RunFolder) -> dict[str, str]:
    """SLURM's word and reason for each job of the run that has not ended; empty without SLURM.

    Raises:
        UserError: SLURM does not answer, so that nothing is known about the jobs.
    """
    jobs = set(run.jobs().values())
    if not jobs or shutil.which("squeue") is None:
        return {}
    try:
        asked = ["squeue", "--noheader", "--states=all", "--format=%i %T %r", "--jobs", ",".join(sorted(jobs))]
        shown = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"SLURM does not answer: {error}. Nothing was begun or changed") from error
    if shown.returncode != 0 and "Invalid job id" not in shown.stderr:
        raise UserError(f"SLURM does not answer: {shown.stderr.strip()}. Nothing was begun or changed")
    found = {}
    for line in shown.stdout.splitlines():
        number, state, reason = [*line.split(None, 2), "", ""][:3]
        if state in _LIVE:
            found[number] = f"{state} {'' if reason == 'None' else reason}".strip()
    return found


_LIVE = (
    "PENDING",
    "RUNNING",
    "COMPLETING",
    "CONFIGURING",
    "SUSPENDED",
    "REQUEUED",
    "REQUEUE_HOLD",
    "STOPPED",
    "PREEMPTED",
)


def cancel_jobs(run: RunFolder) -> list[str]:
    """Cancels the run's jobs; the names of their steps."""
    queue = queued(run)
    names = [name for name, job in run.jobs().items() if job in queue]
    if names:
        subprocess.run(["scancel", *(run.jobs()[name] for name in names)], check=True)
    return names


def _parameters(run: RunFolder, step: Step, options: SlurmOptions, conditions: Sequence[str]) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "job_name": step.name,
        "partition": options.partition,
        "time": options.minutes,
        "cpus_per_task": options.cpus_per_job,
        # srun does not take them from sbatch any more (22.05).
        "srun_args": [f"--cpus-per-task={options.cpus_per_job}"] if options.cpus_per_job else None,
        "mem": None if options.mem_gb is None else f"{round(options.mem_gb * 1024)}M",
        "gpus_per_node": run.request.gpus_per_job if step.needs_gpu and run.request.device == "cuda" else None,
        "dependency": ",".join(conditions) or None,
        "signal_delay_s": min(SIGNAL_DELAY_S, options.minutes * 30),
        "stderr_to_stdout": True,
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **options.more},
    }
    return {name: value for name, value in parameters.items() if value is not None}


def _job_state() -> str:
    command = ["scontrol", "--oneliner", "show", "job", os.environ["SLURM_JOB_ID"]]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.search(r"JobState=(\S+)", shown)
    return found[1] if found else ""


def _submitit() -> Any:
    if shutil.which("sbatch") is None:
        raise UserError("there is no sbatch here: --cluster slurm is called where jobs are submitted")
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = SIGNAL
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            f"--cluster slurm needs submitit, which {sys.executable} does not have: "
            "pip install 'nnunetv2_dsvm[cluster]'"
        ) from error
    return submitit
