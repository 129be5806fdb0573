"""Runs one measurement in a fresh process.

`python -m nnunetv2_dsvm.benchmark.measuring.isolated RESULT < PICKLED_CALL`.

The resident set of a process that has run nothing else tells a case's memory; see `memory.py`.
"""

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


def run_isolated(function: Callable[..., Any], *arguments: Any, environment: Mapping[str, str] | None = None) -> Any:
    """`function(*arguments)` in a fresh process with as many threads as this one; all must be picklable.

    Args:
        function, arguments: what to call.
        environment: of the process; by default this one's.

    Raises:
        RuntimeError: the process failed; the message carries the end of its error output.
    """
    call = pickle.dumps((torch.get_num_threads(), function, arguments))
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.pkl"
        done = subprocess.run(
            [sys.executable, "-m", "nnunetv2_dsvm.benchmark.measuring.isolated", str(result)],
            input=call,
            capture_output=True,
            env=environment,
        )
        if done.returncode != 0 or not result.is_file():
            tail = done.stderr.decode(errors="replace").strip()[-2000:]
            killed = " (killed: probably out of memory)" if done.returncode == -9 else ""
            raise RuntimeError(f"the measuring process ended with status {done.returncode}{killed}: {tail}")
        return pickle.loads(result.read_bytes())


def main() -> None:
    threads, function, arguments = pickle.load(sys.stdin.buffer)
    torch.set_num_threads(threads)
    Path(sys.argv[1]).write_bytes(pickle.dumps(function(*arguments)))


if __name__ == "__main__":
    main()
