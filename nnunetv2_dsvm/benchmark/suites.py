"""What is measured, suite by suite. Each result is checked first; a wrong one gets no speed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch

from nnunetv2_dsvm.benchmark import conventional, plain_conv_unet
from nnunetv2_dsvm.benchmark.checks import Checks
from nnunetv2_dsvm.benchmark.core_case import CoreCase
from nnunetv2_dsvm.benchmark.correctness import WrongResult
from nnunetv2_dsvm.benchmark.measure import Case, Measurement, measure
from nnunetv2_dsvm.benchmark.network_case import NetworkCase
from nnunetv2_dsvm.benchmark.plan import ImageShape, Plan
from nnunetv2_dsvm.benchmark.scaling import measure_scaling, rank_counts
from nnunetv2_dsvm.benchmark.scan_case import ScanCase, ScanShape
from nnunetv2_dsvm.benchmark.sharing import TOGETHER, measure_sharing
from nnunetv2_dsvm.benchmark.timing import time_inference, time_training
from nnunetv2_dsvm.benchmark.workload import DTYPES
from nnunetv2_dsvm.ops import backend_report

_PLAIN_TORCH = ("torch_chunked", "reference")


@dataclass(frozen=True)
class Result:
    """One line of the table: what `implementation` needs for `case`, or why there is no number.

    Attributes:
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


class Runner:
    """Checks and measures.

    Args:
        plan: what.
        progress: told what begins.
    """

    def __init__(self, plan: Plan, progress: Callable[[str], None]) -> None:
        self.plan = plan
        self.progress = progress
        self.device = torch.device(plan.device)
        self.checks = Checks(plan)

    def run(self, suite: str) -> Iterator[Result]:
        """The results of one suite, as they come."""
        yield from {
            "scan": self.scan, "core": self.core, "network": self.network, "distillation": self.distillation,
            "scaling": self.scaling, "sharing": self.sharing,
        }[suite]()  # fmt: skip

    def scan(self) -> Iterator[Result]:
        """Each backend; on a GPU not those in plain torch, which launch thousands of kernels, if a faster one runs."""
        plan = self.plan
        dtype = DTYPES[plan.dtype]
        for images in plan.scan_images:
            for stage in plan.scan_stages:
                height, width = images.tokens(stage)
                shape = ScanShape(images.batch, height, width, 2 * plan.sizes.dims[stage - 1], plan.sizes.d_state)
                report = backend_report(self.device, dtype, shape.d_state)
                fast = [name for name, (supported, _) in report.items() if supported and name not in _PLAIN_TORCH]
                for backend in plan.backends or report:
                    supported, reason = report[backend]
                    if not plan.backends and self.device.type != "cpu" and fast and backend in _PLAIN_TORCH:
                        supported, reason = False, f"slow on a GPU; `--backends {backend}` measures it"
                    if not supported:
                        yield Result("scan", str(shape), backend, note=reason)
                        continue
                    case = ScanCase(backend, shape, plan.dtype, plan.device)
                    check = partial(self.checks.scan, backend, shape)
                    yield self._measured("scan", str(shape), backend, case, check)

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
                        check = partial(self.checks.core, case)
                        yield self._measured("core", label, implementation, case, check)

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
                # nnU-Net compiles its own networks by default on a GPU: that is what a user compares with.
                always = implementation == "PlainConvUNet" and self.device.type == "cuda"
                for compiled in [False, True] if plan.compile or always else [False]:
                    case = replace(self._network_case(implementation, images), compiled=compiled)
                    name = implementation + (", compiled" if compiled else "")
                    yield self._measured("network", str(images), name, case, partial(self.checks.network, case))

    def distillation(self) -> Iterator[Result]:
        """The dual self-distillation on top of the training step; timed in turns, so that small differences show."""
        for images in self.plan.network_images:
            cases = {name: self._network_case(name, images) for name in ("VM-UNet", "DSVM-UNet")}
            results = [
                self._measured("distillation", str(images), name, case, partial(self.checks.network, case))
                for name, case in cases.items()
            ]
            if all(result.measurement for result in results):
                self.progress(f"distillation: {images}, in turns")
                results = self._retime_in_turns(results, cases)
            yield from results

    def scaling(self) -> Iterator[Result]:
        """DSVM-UNet's step on one GPU, and on several by DDP, with and without their all-reduce."""
        counts = rank_counts(self.device)
        if not counts:
            yield Result("scaling", "several GPUs", "DSVM-UNet", note="two GPUs are needed at least")
            return
        for images in self.plan.scaling_images:
            case = self._network_case("DSVM-UNet", images)
            yield self._measured("scaling", str(images), "1 GPU", case, partial(self.checks.network, case))
            for ranks in counts:
                yield from self._on_several(images, case, ranks)

    def sharing(self) -> Iterator[Result]:
        """The preset small and PlainConvUNet in one process, and in two at once, on the CPU's cores."""
        if self.device.type != "cpu":
            yield Result("sharing", "two processes", "VM-UNet", note="it is about a CPU: choose --device cpu")
            return
        for images in self.plan.sharing_images:
            for implementation in ("PlainConvUNet", "VM-UNet"):
                label = f"{implementation}, {images}"
                case = replace(self._network_case(implementation, images), sizes=self.plan.sharing_sizes)
                if implementation == "PlainConvUNet" and plain_conv_unet.available()[1]:
                    yield Result("sharing", label, "one process", note=plain_conv_unet.available()[1])
                    continue
                yield from self._one_and_two(Result("sharing", label, ""), case)

    def _one_and_two(self, result: Result, case: NetworkCase) -> Iterator[Result]:
        for processes, name in ((1, "one process"), (TOGETHER, "two at once")):
            self.progress(f"sharing: {result.case}, {name}")
            result = replace(result, implementation=name)
            try:
                result = replace(result, error=self.checks.network(case))
                times = measure_sharing(case, processes, self.plan.effort)
            except WrongResult as wrong:
                yield replace(result, note=f"wrong result, no speed reported: {wrong}", failed=True)
            except RuntimeError as failure:
                yield replace(result, note=f"failed: {str(failure).strip().splitlines()[-1]}", failed=True)
            else:
                measurement = Measurement(times.inference, times.forward, times.training, None, None)
                yield replace(result, measurement=measurement)

    def _on_several(self, images: ImageShape, case: NetworkCase, ranks: int) -> list[Result]:
        self.progress(f"scaling: {images}, {ranks} GPUs")
        result = Result("scaling", str(images), f"{ranks} GPUs")
        try:
            times = measure_scaling(case, ranks, max(30, self.plan.effort.least))
        except ValueError as indivisible:
            return [replace(result, note=str(indivisible))]
        except torch.OutOfMemoryError:
            return [replace(result, note=f"does not fit into the memory of these {ranks} GPUs")]
        except (WrongResult, RuntimeError) as failure:
            return [replace(result, note=str(failure).strip().splitlines()[-1], failed=True)]
        alone = f"{ranks} GPUs, no all-reduce"
        return [
            replace(result, measurement=Measurement(None, times.forward, times.training, None, None)),
            replace(
                result,
                implementation=alone,
                measurement=Measurement(None, times.alone_forward, times.alone_training, None, None),
            ),
        ]

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

    def _measured(
        self, suite: str, label: str, implementation: str, case: Case, check: Callable[[], float | None]
    ) -> Result:
        self.progress(f"{suite}: {label}, {implementation}")
        result = Result(suite, label, implementation)
        try:
            result = replace(result, error=check())
            return replace(result, measurement=measure(case, self.plan.effort))
        except WrongResult as wrong:
            return replace(result, note=f"wrong result, no speed reported: {wrong}", failed=True)
        except torch.OutOfMemoryError:
            return replace(result, note=f"does not fit into the memory of this {self.device.type} device")
        except RuntimeError as failure:
            lines = str(failure).strip().splitlines() or [type(failure).__name__]
            return replace(result, note=f"failed: {lines[-1]}", failed=True)
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
