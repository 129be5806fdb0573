"""What is measured, suite by suite. Each result is checked first; a wrong one gets no speed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from nnunetv2_dsvm.benchmark import conventional, correctness, plain_conv_unet
from nnunetv2_dsvm.benchmark.core_case import CoreCase
from nnunetv2_dsvm.benchmark.measure import Case, Measurement, measure
from nnunetv2_dsvm.benchmark.network_case import NetworkCase, NetworkSizes
from nnunetv2_dsvm.benchmark.scan_case import ScanCase, ScanShape
from nnunetv2_dsvm.benchmark.timing import Effort, time_inference, time_training
from nnunetv2_dsvm.benchmark.workload import DTYPES
from nnunetv2_dsvm.ops import backend_report

PATCH_SIZE = 4  # tokens of stage 1 are patches of 4 x 4 pixels


@dataclass(frozen=True)
class ImageShape:
    """A batch of images."""

    batch: int
    height: int
    width: int

    def tokens(self, stage: int) -> tuple[int, int]:
        """Height and width of stage 1, 2, …, rounded up as the network pads."""
        scale = PATCH_SIZE * 2 ** (stage - 1)
        return -(-self.height // scale), -(-self.width // scale)

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.height}×{self.width}"


@dataclass(frozen=True)
class Plan:
    """What the command line asked for."""

    device: str
    dtype: str
    backends: Sequence[str]
    scan_images: Sequence[ImageShape]
    scan_stages: Sequence[int]
    core_images: Sequence[ImageShape]
    core_stages: Sequence[int]
    network_images: Sequence[ImageShape]
    sizes: NetworkSizes
    effort: Effort
    scan_backend: str = "auto"
    compile: bool = False


@dataclass(frozen=True)
class Result:
    """One line of the table: what `implementation` needs for `case`, or why there is no number.

    Attributes:
        error: largest relative L2 error that the check found before the measurement.
        note: why nothing was measured, or a remark.
        wrong: the check failed.
    """

    suite: str
    case: str
    implementation: str
    measurement: Measurement | None = None
    error: float | None = None
    note: str = ""
    wrong: bool = False


@dataclass
class Runner:
    """Checks and measures; `progress` is told what begins."""

    plan: Plan
    progress: Callable[[str], None]
    _checked: dict[Any, float | correctness.WrongResult] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return torch.device(self.plan.device)

    def run(self, suite: str) -> Iterator[Result]:
        """The results of one suite, as they come."""
        yield from {
            "scan": self.scan, "core": self.core, "network": self.network, "distillation": self.distillation
        }[suite]()  # fmt: skip

    def scan(self) -> Iterator[Result]:
        """Each backend. The reference loop only on a CPU: on a GPU it is hundreds of launches per token row."""
        plan = self.plan
        dtype = DTYPES[plan.dtype]
        for images in plan.scan_images:
            for stage in plan.scan_stages:
                height, width = images.tokens(stage)
                shape = ScanShape(images.batch, height, width, 2 * plan.sizes.dims[stage - 1], plan.sizes.d_state)
                report = backend_report(self.device, dtype, shape.d_state)
                for backend in plan.backends:
                    supported, reason = report[backend]
                    if backend == "reference" and self.device.type != "cpu":
                        continue
                    if not supported:
                        yield Result("scan", str(shape), backend, note=reason)
                        continue
                    case = ScanCase(backend, shape, plan.dtype, plan.device)
                    check = self._scan_check(backend, shape, dtype)
                    yield self._measured("scan", str(shape), backend, case, check)

    def _scan_check(self, backend: str, shape: ScanShape, dtype: torch.dtype) -> Callable[[], float]:
        def check() -> float:
            error = self._once(
                ("scan", backend, dtype),
                lambda: correctness.check_scan_on_small_shapes(backend, dtype, self.device, shape.d_state),
            )
            if backend == "reference":
                return error
            # The reference is too slow for the shape that is measured; torch_chunked, checked, is the oracle there.
            self._once(
                ("scan", "torch_chunked", torch.float64),
                lambda: correctness.check_scan_on_small_shapes(
                    "torch_chunked", torch.float64, torch.device("cpu"), shape.d_state
                ),
            )
            return max(error, correctness.check_scan(backend, shape, dtype, self.device, oracle="torch_chunked"))

        return check

    def core(self) -> Iterator[Result]:
        """The SS2D core, and the block around it, of every stage: ours and the conventional composition."""
        plan = self.plan
        module, reason = conventional.kernel()
        for images in plan.core_images:
            for stage in plan.core_stages:
                height, width = images.tokens(stage)
                dim = plan.sizes.dims[stage - 1]
                for part in ("core", "block"):
                    label = f"{part}, stage {stage}, batch {images.batch}, {height}×{width} tokens, d_inner {2 * dim}"
                    for implementation in ("conventional", "ours"):
                        if implementation == "conventional" and (module is None or self.device.type != "cuda"):
                            yield Result("core", label, implementation, note=reason or "it needs CUDA")
                            continue
                        case = CoreCase(
                            part, implementation, images.batch, height, width, dim, plan.sizes.d_state,
                            plan.dtype, plan.device, plan.scan_backend,
                        )  # fmt: skip
                        yield self._measured("core", label, implementation, case, self._core_check(implementation))

    def _core_check(self, implementation: str) -> Callable[[], float]:
        plan = self.plan
        return lambda: self._once(
            ("core", implementation),
            lambda: correctness.check_core(
                implementation,
                DTYPES[plan.dtype],
                self.device,
                d_state=plan.sizes.d_state,
                scan_backend=plan.scan_backend,
            ),
        )

    def network(self) -> Iterator[Result]:
        """Training step and inference of ours, the conventional VM-UNet and PlainConvUNet."""
        plan = self.plan
        module, no_kernel = conventional.kernel()
        no_plain = plain_conv_unet.available()[1]
        without = {"conventional VM-UNet": "" if module and self.device.type == "cuda" else no_kernel or "needs CUDA"}
        without["PlainConvUNet"] = no_plain
        for images in plan.network_images:
            for implementation in ("conventional VM-UNet", "PlainConvUNet", "VM-UNet"):
                if without.get(implementation):
                    yield Result("network", str(images), implementation, note=without[implementation])
                    continue
                for compiled in [False, True] if plan.compile else [False]:
                    case = replace(self._network_case(implementation, images), compiled=compiled)
                    name = implementation + (", compiled" if compiled else "")
                    check = self._compiled_check(case) if compiled else self._network_check(case)
                    yield self._measured("network", str(images), name, case, check)

    def distillation(self) -> Iterator[Result]:
        """The dual self-distillation on top of the training step; timed in turns, so that small differences show."""
        for images in self.plan.network_images:
            cases = {name: self._network_case(name, images) for name in ("VM-UNet", "DSVM-UNet")}
            results = [
                self._measured("distillation", str(images), name, case, self._network_check(case))
                for name, case in cases.items()
            ]
            if all(result.measurement for result in results):
                self.progress(f"distillation: {images}, in turns")
                results = self._retime_in_turns(results, cases)
            yield from results

    def _retime_in_turns(self, results: list[Result], cases: dict[str, NetworkCase]) -> list[Result]:
        workloads = {name: case.build() for name, case in cases.items()}
        inference = time_inference(workloads, self.device, self.plan.effort)
        training = time_training(workloads, self.device, self.plan.effort)
        return [
            replace(
                r,
                measurement=replace(
                    r.measurement,
                    inference=inference[r.implementation],
                    forward=training[r.implementation][0],
                    training=training[r.implementation][1],
                ),
            )
            for r in results
        ]

    def _network_case(self, implementation: str, images: ImageShape) -> NetworkCase:
        plan = self.plan
        return NetworkCase(
            implementation, images.batch, images.height, images.width, plan.sizes, plan.dtype, plan.device,
            plan.scan_backend,
        )  # fmt: skip

    def _network_check(self, case: NetworkCase) -> Callable[[], float] | None:
        if case.implementation == "PlainConvUNet":
            return None  # not ours: there is nothing to compare it with
        reference = replace(case, implementation="VM-UNet", device="cpu", scan_backend="reference")
        return lambda: self._once(
            ("network", case.implementation),
            lambda: correctness.check_network(case.network(), reference.network(), DTYPES[case.dtype], self.device),
        )

    def _compiled_check(self, case: NetworkCase) -> Callable[[], float]:
        def check() -> float:
            eager, compiled = (replace(case, compiled=c).build() for c in (False, True))
            eager.set_training(False)
            compiled.set_training(False)
            return correctness.check_compiled(eager.infer(), compiled.infer(), DTYPES[case.dtype])

        return check

    def _once(self, key: Any, check: Callable[[], float]) -> float:
        """A check's result, computed at its first use."""
        if key not in self._checked:
            try:
                self._checked[key] = check()
            except correctness.WrongResult as wrong:
                self._checked[key] = wrong
        if isinstance(self._checked[key], correctness.WrongResult):
            raise self._checked[key]
        return self._checked[key]

    def _measured(
        self, suite: str, label: str, implementation: str, case: Case, check: Callable[[], float] | None
    ) -> Result:
        self.progress(f"{suite}: {label}, {implementation}")
        result = Result(suite, label, implementation)
        try:
            result = replace(result, error=check() if check else None)
            return replace(result, measurement=measure(case, self.plan.effort))
        except correctness.WrongResult as wrong:
            return replace(result, note=str(wrong), wrong=True)
        except (torch.OutOfMemoryError, RuntimeError) as failure:
            first_line = str(failure).strip().splitlines()[-1] if str(failure).strip() else type(failure).__name__
            return replace(result, note=f"failed: {first_line}")
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
