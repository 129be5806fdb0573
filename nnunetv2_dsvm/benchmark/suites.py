"""The suites of one process: scan, core, network and distillation. Each result is checked first."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch

from nnunetv2_dsvm.benchmark.cases import conventional, plain_conv_unet
from nnunetv2_dsvm.benchmark.cases.convolution import ConvolutionCase, ConvolutionImplementation
from nnunetv2_dsvm.benchmark.cases.core import CoreCase, CoreImplementation, Part
from nnunetv2_dsvm.benchmark.cases.family import FamilyCase
from nnunetv2_dsvm.benchmark.cases.network import Implementation, NetworkCase
from nnunetv2_dsvm.benchmark.cases.scan import ScanCase
from nnunetv2_dsvm.benchmark.cases.workload import DTYPES
from nnunetv2_dsvm.benchmark.measuring.timing import time_inference, time_training
from nnunetv2_dsvm.benchmark.result import BenchmarkResult
from nnunetv2_dsvm.benchmark.runner import Runner, broken
from nnunetv2_dsvm.ops import backend_report
from nnunetv2_dsvm.ops.dispatch import BACKENDS, fused_backend
from nnunetv2_dsvm.ops.scan_inputs import ScanShape

_PARTS: tuple[Part, ...] = ("core", "block")
_CORES: tuple[CoreImplementation, ...] = ("conventional", "ours")
_NETWORKS: tuple[Implementation, ...] = ("conventional VM-UNet", "PlainConvUNet", "VM-UNet")
_DISTILLED: tuple[Implementation, ...] = ("VM-UNet", "DSVM-UNet")
_CONVOLUTIONS: tuple[ConvolutionImplementation, ...] = ("torch", "ours")
_IMAGES_ONLY = "there is one of images only"


def scan(runner: Runner) -> Iterator[BenchmarkResult]:
    """Each backend; on a GPU not those in plain torch, which launch thousands of kernels, if a faster one runs."""
    settings, device = runner.settings, runner.device
    for images in settings.scan_images:
        for stage in images.stages(settings.scan_stages):
            d_inner = 2 * settings.sizes.dims[stage - 1]
            shape = ScanShape.of_grid(images.batch, images.tokens(stage), d_inner, settings.sizes.d_state)
            report = backend_report(device, DTYPES[settings.dtype], shape.d_state, len(shape.sizes))
            fast = [name for name, (supported, _) in report.items() if supported and not BACKENDS[name].plain_torch]
            for backend in settings.backends or report:
                supported, reason = report[backend]
                if not settings.backends and device.type != "cpu" and fast and BACKENDS[backend].plain_torch:
                    supported, reason = False, f"slow on a GPU; `--backends {backend}` measures it"
                if not supported:
                    yield BenchmarkResult("scan", str(shape), backend, note=reason)
                    continue
                case = ScanCase(backend, shape, settings.dtype, settings.device)
                yield runner.measured("scan", str(shape), backend, case, partial(runner.checks.scan, backend, shape))


def core(runner: Runner) -> Iterator[BenchmarkResult]:
    """The SS2D core, and the block around it, of every stage: ours and the conventional composition of images."""
    settings = runner.settings
    no_kernel = _no_kernel(runner)
    for images in settings.core_images:
        for stage in images.stages(settings.core_stages):
            *depth, height, width = tokens = images.tokens(stage)
            dim = settings.sizes.dims[stage - 1]
            where = f"stage {stage}, batch {images.batch}, {'×'.join(map(str, tokens))} tokens, d_inner {2 * dim}"
            for part in _PARTS:
                for implementation in _CORES:
                    label = f"{part}, {where}"
                    if implementation == "conventional" and (no_kernel or depth):
                        yield BenchmarkResult("core", label, implementation, note=no_kernel or _IMAGES_ONLY)
                        continue
                    case = CoreCase(
                        part, implementation, images.batch, height, width, dim, settings.sizes.d_state,
                        settings.dtype, settings.device, settings.scan_backend, *depth,
                    )  # fmt: skip
                    yield runner.measured("core", label, implementation, case, partial(runner.checks.core, case))
            size = (images.batch, *tokens, 2 * dim)
            yield from _convolutions(runner, f"convolution, {where}", size)


def _convolutions(runner: Runner, label: str, size: tuple[int, ...]) -> Iterator[BenchmarkResult]:
    """The block's depthwise convolution with bias and SiLU: torch's, and ours where there is one."""
    settings = runner.settings
    for implementation in _CONVOLUTIONS:
        if implementation == "ours" and fused_backend(runner.device, DTYPES[settings.dtype]) is None:
            yield BenchmarkResult("core", label, implementation, note="it is of the fused kernels, which run on GPUs")
            continue
        case = ConvolutionCase(implementation, size, settings.dtype, settings.device)
        yield runner.measured("core", label, implementation, case, partial(runner.checks.convolution, case))


def network(runner: Runner) -> Iterator[BenchmarkResult]:
    """Training step and inference of ours, the conventional VM-UNet and PlainConvUNet."""
    without = {"conventional VM-UNet": _no_kernel(runner), "PlainConvUNet": plain_conv_unet.available()[1]}
    for images in (*runner.settings.network_images, *runner.settings.network_volumes):
        for implementation in _NETWORKS:
            if implementation == "conventional VM-UNet" and images.plan:
                yield BenchmarkResult("network", str(images), implementation, note=_IMAGES_ONLY)
                continue
            if without.get(implementation):
                yield BenchmarkResult("network", str(images), implementation, note=without[implementation])
                continue
            for compiled in (False, True) if _is_compiled_too(runner, implementation) else (False,):
                case = replace(runner.network_case(implementation, images), compiled=compiled)
                name = implementation + (", compiled" if compiled else "")
                yield runner.measured("network", str(images), name, case, partial(runner.checks.network, case))


def distillation(runner: Runner) -> Iterator[BenchmarkResult]:
    """The dual self-distillation on top of the training step; timed in turns, so that small differences show.

    Of VM-UNet on images; and as nnUNetTrainerDistilled adds it to PlainConvUNet, on the first of the volumes.
    """
    for images in runner.settings.network_images:
        yield from _in_turns(runner, str(images), {name: runner.network_case(name, images) for name in _DISTILLED})
    without = plain_conv_unet.available()[1]
    for volumes in runner.settings.network_volumes[:1]:
        if without:
            yield BenchmarkResult("distillation", str(volumes), "PlainConvUNet", note=without)
            continue
        compiled = _is_compiled_too(runner, "PlainConvUNet")
        # On GPUs nnU-Net trains it in fp16, with a scaler of the gradients.
        dtype = "float16" if runner.device.type == "cuda" else runner.settings.dtype
        alone = replace(runner.network_case("PlainConvUNet", volumes), compiled=compiled, dtype=dtype)
        name = "PlainConvUNet" + (", compiled" if compiled else "")
        cases = {name: alone, f"{name}, both terms": replace(alone, both_terms=True)}
        yield from _in_turns(runner, f"{volumes}, {dtype}", cases)


def family(runner: Runner) -> Iterator[BenchmarkResult]:
    """Training step and inference of each chosen relative, beside PlainConvUNet and its conventional composition."""
    settings = runner.settings
    no_kernel, without = _no_kernel(runner), plain_conv_unet.available()[1]
    for images in settings.network_images:
        label = str(images)
        if without:
            yield BenchmarkResult("family", label, "PlainConvUNet", note=without)
        else:
            compiled = _is_compiled_too(runner, "PlainConvUNet")
            case = replace(runner.network_case("PlainConvUNet", images), compiled=compiled)
            name = "PlainConvUNet" + (", compiled" if compiled else "")
            yield runner.measured("family", label, name, case, partial(runner.checks.network, case))
        of_images = runner.network_case("VM-UNet", images)
        for relative in settings.relatives:
            for composed, name in ((False, relative), (True, f"conventional {relative}")):
                if composed and no_kernel:
                    yield BenchmarkResult("family", label, name, note=no_kernel)
                    continue
                of_family = FamilyCase.of(of_images, relative, conventional=composed)
                yield runner.measured("family", label, name, of_family, partial(runner.checks.family, of_family))


def _no_kernel(runner: Runner) -> str:
    """Why mamba-ssm's kernel, and so what is built on it, cannot be measured; empty if it can."""
    module, reason = conventional.kernel()
    if module is None:
        return reason
    return "" if runner.device.type == "cuda" else "it needs CUDA"


def _is_compiled_too(runner: Runner, implementation: Implementation) -> bool:
    """PlainConvUNet always is on CUDA, where nnU-Net compiles it unless it is told not to."""
    return runner.settings.compile or (implementation == "PlainConvUNet" and runner.device.type == "cuda")


def _in_turns(runner: Runner, label: str, cases: Mapping[str, NetworkCase]) -> list[BenchmarkResult]:
    """Each checked and measured alone, for the memory; then timed in turns if all could be."""
    results = [
        runner.measured("distillation", label, name, case, partial(runner.checks.network, case))
        for name, case in cases.items()
    ]
    if all(result.measurement for result in results):
        runner.progress(f"distillation: {label}, in turns")
        # torch.compile would take the code of a network with taps for one without, unless it looks at hooks.
        with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
            try:
                return _retimed_in_turns(runner, results, cases)
            except Exception as failure:
                return [broken(result, failure) for result in results]
    return results


def _retimed_in_turns(
    runner: Runner, results: list[BenchmarkResult], cases: Mapping[str, NetworkCase]
) -> list[BenchmarkResult]:
    workloads = {name: case.build() for name, case in cases.items()}
    inference = time_inference(workloads, runner.device, runner.settings.effort)
    training = time_training(workloads, runner.device, runner.settings.effort)
    retimed = []
    for result in results:
        assert result.measurement is not None  # what has no number is not timed again
        forward, step = training[result.implementation]
        measurement = replace(
            result.measurement, inference=inference[result.implementation], forward=forward, training=step
        )
        retimed.append(replace(result, measurement=measurement))
    return retimed
