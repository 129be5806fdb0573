"""What the benchmark found."""

from dataclasses import dataclass

from nnunetv2_dsvm.benchmark.measuring.measure import Measurement


@dataclass(frozen=True)
class BenchmarkResult:
    """One line of the table: what `implementation` needs for `case`, or why there is no number.

    Attributes:
        suite, case: where the line stands.
        implementation: what was measured.
        measurement: None where there is no number.
        error: largest relative L2 error that the check found before the measurement.
        note: why nothing was measured.
        failed: the check found a wrong result, or the case broke: an answer is missing that should be there.
    """

    suite: str
    case: str
    implementation: str
    measurement: Measurement | None = None
    error: float | None = None
    note: str = ""
    failed: bool = False
