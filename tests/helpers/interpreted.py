"""Runs the tests of the folder interpreted/, which want Triton's interpreter chosen before Triton is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "interpreted"


def run_interpreted(*arguments: str, **variables: str) -> None:
    """Runs pytest on the folder, or on what `arguments` choose, in a process of its own; fails with its report."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", *(arguments or [str(FOLDER)])],
        env={**mine, "TRITON_INTERPRET": "1", **variables}, cwd=FOLDER.parent, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    if result.returncode != 0:
        pytest.fail(f"in Triton's interpreter:\n{result.stdout}{result.stderr}", pytrace=False)
