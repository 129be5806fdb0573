"""What is submitted to SLURM, by stand-ins for its commands that write down how they were called."""

import importlib.util
import os

import pytest

from nnunetv2_dsvm.cluster.engines.slurm import SlurmOptions, submit
from nnunetv2_dsvm.cluster.preparation import write_splits
from nnunetv2_dsvm.cluster.request import Request
from nnunetv2_dsvm.cluster.run_folder import RunFolder

TINY = "Dataset901_Tiny"
COMMANDS = {
    "sbatch": 'n=$(($(ls "$PLACE" | grep -c job_) + 1)); for last; do :; done; cp "$last" "$PLACE/job_$n"; '
    'echo "Submitted batch job $n"',
    "squeue": 'cat "$PLACE/queue"',
    "scancel": 'echo "$@" >> "$PLACE/cancelled"',
    "srun": "",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    if importlib.util.find_spec("submitit") is None:
        pytest.skip("submitit is not installed")
    for name, script in COMMANDS.items():
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def flags(place, number: int) -> dict[str, str]:
    """`#SBATCH --name=value` of a job's script."""
    lines = (place / f"job_{number}").read_text().splitlines()
    marked = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH --")]
    return {name: value for name, _, value in (line.partition("=") for line in marked)}


def test_jobs_ask_for_what_was_asked_and_wait_for_what_they_need(place, copied_dataset):
    request = Request((TINY,), ("tinyPlans",), ("2d",), ("A", "B"), ("0", "1"), gpus_per_job=2)
    options = SlurmOptions("short,long", 14, 1.5, minutes=90, max_jobs=2, more={"account": "lab"})
    (copied_dataset.preprocessed / "splits_final.json").unlink(missing_ok=True)  # a test's training may have drawn them
    with copied_dataset.here():
        run = RunFolder(place / "with blanks").write_request(request)
        names = submit(run, options)
        # prepare is 1; A is 2 and 3, B is 4 and 5; best is 6, the evaluations are 7 and 8, the report is 9.
        assert len(names) == 9 and [name.partition("__")[0] for name in names] == [
            "prepare", "train", "train", "train", "train", "best", "evaluate", "evaluate", "report",
        ]  # fmt: skip
        train = flags(place, 3)
        wanted = {"partition": "short,long", "cpus-per-task": "14", "mem": "1536M", "time": "90", "account": "lab"}
        assert wanted.items() <= train.items() and train["gpus-per-node"] == "2" and "requeue" in train
        assert train["signal"].endswith("@120")
        assert train["dependency"] == "afterok:1,afterany:1"  # two at a time: the second of them is behind the first
        assert "gpus-per-node" not in flags(place, 6)
        assert flags(place, 6)["dependency"] == "afterok:2,afterok:3,afterok:4,afterok:5,afterany:4"

        write_splits(TINY, request)  # the last of what prepare does
        # Fold 0 of A has failed and SLURM has ended what needed it; the others wait or run.
        (place / "queue").write_text(
            "3 RUNNING None\n4 RUNNING None\n5 PENDING Priority\n8 PENDING Dependency\n9 PENDING Dependency\n"
        )
        again = submit(run, SlurmOptions())
    assert [name.partition("__")[0] for name in again] == ["train", "best", "evaluate", "evaluate", "report"]
    assert (place / "cancelled").read_text().split() == ["8", "9"]
    jobs = run.jobs()
    assert flags(place, int(jobs["report"]))["dependency"] == ",".join(
        f"afterany:{jobs[name]}" for name in again if name.startswith("evaluate")
    )
