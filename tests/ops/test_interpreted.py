"""The Triton kernels on a CPU: runs the tests of `tests/interpreted` in two processes of Triton's interpreter."""

import pytest
from helpers.interpreted import FOLDER, run_interpreted

pytest.importorskip("triton", reason="Triton has no build for this platform")


@pytest.mark.slow  # begun early: it takes minutes
def test_kernels_in_the_interpreter():
    run_interpreted(str(FOLDER), "--numprocesses", "2", "--dist", "load")
