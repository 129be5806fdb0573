"""What has to be right before a case is measured. A check that several cases share runs once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from nnunetv2_dsvm.benchmark import correctness
from nnunetv2_dsvm.benchmark.cases.convolution import ConvolutionCase, check_convolution
from nnunetv2_dsvm.benchmark.cases.core import CoreCase, CoreImplementation
from nnunetv2_dsvm.benchmark.cases.family import FamilyCase
from nnunetv2_dsvm.benchmark.cases.network import NetworkCase
from nnunetv2_dsvm.benchmark.cases.workload import DTYPES
from nnunetv2_dsvm.benchmark.settings import Settings
from nnunetv2_dsvm.ops.dispatch import BACKENDS
from nnunetv2_dsvm.ops.scan_inputs import ScanShape
from nnunetv2_dsvm.ops.testing import WrongResult, check_scan, check_scan_on_small_shapes


class Checks:
    """Each method returns the largest relative L2 error that it found, or raises WrongResult."""

    def __init__(self, settings: Settings) -> None:
        self.device = torch.device(settings.device)
        self.dtype_name, self.dtype = settings.dtype, DTYPES[settings.dtype]
        self.d_state = settings.sizes.d_state
        self.scan_backend = settings.scan_backend
        self._results: dict[Any, float | WrongResult] = {}
        self._expected: dict[str, correctness.Expected] = {}  # by the relative, for it and its conventional composition

    def scan(self, backend: str, shape: ScanShape) -> float:
        """A backend on small shapes against the reference, and on the shape that is measured against torch_chunked.

        The reference would take minutes there; torch_chunked in float64 has itself been compared with it.
        """
        error = self._small_scan(backend, self.dtype, self.device)
        if BACKENDS[backend].definition:
            return error
        self._small_scan("torch_chunked", torch.float64, torch.device("cpu"))
        return self._at_full_size(
            error, lambda: check_scan(backend, shape, self.dtype, self.device, oracle="torch_chunked")
        )

    def _at_full_size(self, error: float, check: Callable[[], float]) -> float:
        """The larger of an error on small shapes and that on the measured one."""
        try:
            return max(error, check())
        except torch.OutOfMemoryError:  # the oracle needs several times the memory of what is measured
            return error
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _small_scan(self, backend: str, dtype: torch.dtype, device: torch.device) -> float:
        return self._once(
            ("scan", backend, dtype),
            lambda: check_scan_on_small_shapes(backend, dtype, device, self.d_state),
        )

    def core(self, case: CoreCase) -> float:
        """An SS2D core's output and gradients: on a small shape, and on the one that is measured, as for the scan."""
        error = self._small_core(case.implementation, case.depth and 3)
        self._small_scan("torch_chunked", torch.float64, torch.device("cpu"))
        return self._once(
            replace(case, part="core"),
            lambda: self._at_full_size(error, lambda: correctness.check_core(case, oracle="torch_chunked")),
        )

    def _small_core(self, implementation: CoreImplementation, depth: int | None = None) -> float:
        case = CoreCase(
            "core", implementation, 2, 6, 5, 32, self.d_state, self.dtype_name, self.device.type, self.scan_backend,
            depth,
        )  # fmt: skip
        return self._once(case, lambda: correctness.check_core(case))

    def convolution(self, case: ConvolutionCase) -> float:
        """A depthwise convolution's result and gradients on a small shape."""
        key = (case.implementation, len(case.size), case.dtype)
        return self._once(key, lambda: check_convolution(case))

    def network(self, case: NetworkCase) -> float | None:
        """A network's logits and its cores' gradients; None for PlainConvUNet, which there is nothing to compare with.

        Compiled, its logits on the measured images are compared with those of the same network run eagerly, too; with
        the distillation, its loss.
        """
        eager = replace(case, compiled=False)
        error = None
        if case.implementation != "PlainConvUNet":
            reference = replace(eager, device="cpu", scan_backend="reference")
            conventional = case.implementation == "conventional VM-UNet"
            gradients = self._small_core("conventional" if conventional else "ours", case.depth and 3)
            of_logits = self._once(
                ("network", case.implementation, case.plan),
                lambda: correctness.check_network(
                    eager.network(), correctness.expected_logits(reference.vm_unet()), self.dtype, self.device
                ),
            )
            error = max(gradients, of_logits)
        if not case.compiled:
            return error
        works = eager.build(), case.build()
        for work in works:
            work.set_training(False)
        expected, logits = (work.infer() for work in works)
        error = max(error or 0.0, correctness.check_compiled("logits", expected, logits, DTYPES[case.dtype]))
        if not case.both_terms:
            return error
        for work in works:
            work.set_training(True)
        expected, loss = (work.forward().detach() for work in works)
        return max(error, correctness.check_compiled("loss", expected, loss, DTYPES[case.dtype]))

    def family(self, case: FamilyCase) -> float:
        """A relative's logits against the same network's in float64, on a CPU.

        In 16 bit, U-Mamba Enc's are further from them than others', whatever computes them.
        """
        self._small_scan("torch_chunked", torch.float64, torch.device("cpu"))  # the reference would take minutes
        small = replace(case, height=64, width=64)  # of which size some networks are built

        def in_plain_torch() -> nn.Module:
            self._small_scan("torch_chunked", self.dtype, self.device)
            return small.relative_network("torch_chunked").to(self.device)

        if case.relative not in self._expected:
            oracle = small.relative_network("torch_chunked")
            self._expected[case.relative] = correctness.expected_logits(oracle, (64, 64))
        return correctness.check_network(
            small.network(), self._expected[case.relative], self.dtype, self.device, in_plain_torch
        )

    def _once(self, key: Any, check: Callable[[], float]) -> float:
        if key not in self._results:
            try:
                self._results[key] = check()
            except WrongResult as wrong:
                self._results[key] = wrong
        result = self._results[key]
        if isinstance(result, WrongResult):
            raise result
        return result
