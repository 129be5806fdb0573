"""Checks and measures one case after another; a wrong result gets no speed."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import torch

from nnunetv2_dsvm.benchmark.cases.network import Implementation, NetworkCase
from nnunetv2_dsvm.benchmark.checks import Checks
from nnunetv2_dsvm.benchmark.image_shape import ImageShape
from nnunetv2_dsvm.benchmark.measuring.measure import MeasuredCase, measure
from nnunetv2_dsvm.benchmark.result import BenchmarkResult
from nnunetv2_dsvm.benchmark.settings import Settings
from nnunetv2_dsvm.files.text import last_line
from nnunetv2_dsvm.ops.testing import WrongResult


class Runner:
    """What the suites share.

    Args:
        settings: what is measured.
        progress: told what begins.
    """

    def __init__(self, settings: Settings, progress: Callable[[str], None]) -> None:
        self.settings = settings
        self.progress = progress
        self.device = torch.device(settings.device)
        self.checks = Checks(settings)

    def network_case(self, implementation: Implementation, images: ImageShape) -> NetworkCase:
        """A network of the settings' sizes on `images`."""
        settings = self.settings
        return NetworkCase(
            implementation, images.batch, images.height, images.width, settings.sizes, settings.dtype, settings.device,
            settings.scan_backend, depth=images.depth, plan=images.plan,
        )  # fmt: skip

    def measured(
        self, suite: str, label: str, implementation: str, case: MeasuredCase, check: Callable[[], float | None]
    ) -> BenchmarkResult:
        """The line of `case`, after `check`, which returns its error or raises WrongResult."""
        name = f"{suite}: {label}, {implementation}"
        self.progress(f"{name}: check")
        result = BenchmarkResult(suite, label, implementation)
        try:
            result = replace(result, error=check())
            return replace(
                result, measurement=measure(case, self.settings.effort, lambda of: self.progress(f"{name}: {of}"))
            )
        except WrongResult as wrong:
            return refused(result, wrong)
        except torch.OutOfMemoryError:
            return replace(result, note=f"does not fit into the memory of this {self.device.type} device")
        except Exception as failure:  # of whatever kind: the other cases go on
            return broken(result, failure)
        finally:
            if self.device.type == "cuda":
                with suppress(RuntimeError):  # after some errors every call fails, and each line says so
                    torch.cuda.empty_cache()


def refused(result: BenchmarkResult, wrong: WrongResult) -> BenchmarkResult:
    """The line of a case whose result is wrong."""
    return replace(result, note=f"wrong result, no speed reported: {wrong}", failed=True)


def broken(result: BenchmarkResult, failure: Exception) -> BenchmarkResult:
    """The line of a case that ended with an error; it has no number."""
    note = f"failed: {type(failure).__name__}: {last_line(failure)}"
    return replace(result, measurement=None, note=note, failed=True)
