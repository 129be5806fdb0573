"""Cases of the benchmark without a process each."""

import pytest

from nnunetv2_dsvm.benchmark.measuring import measure


@pytest.fixture
def in_this_process(monkeypatch):
    """Measures without a fresh process per case: fast, but the memory means little."""
    monkeypatch.setattr(measure, "run_isolated", lambda function, *arguments: function(*arguments))
