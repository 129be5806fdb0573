"""The suites of several processes: scaling to more GPUs, and two processes that share a CPU."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from nnunetv2_dsvm.benchmark.cases import plain_conv_unet
from nnunetv2_dsvm.benchmark.cases.network import Implementation, NetworkCase
from nnunetv2_dsvm.benchmark.image_shape import ImageShape
from nnunetv2_dsvm.benchmark.measuring.measure import Measurement
from nnunetv2_dsvm.benchmark.result import BenchmarkResult
from nnunetv2_dsvm.benchmark.runner import Runner, broken, refused
from nnunetv2_dsvm.benchmark.scaling import measure_scaling, rank_counts
from nnunetv2_dsvm.benchmark.sharing import TOGETHER, measure_sharing
from nnunetv2_dsvm.ops.testing import WrongResult

_LEAST_STEPS = 30  # of a scaling
_SHARING: tuple[Implementation, ...] = ("PlainConvUNet", "VM-UNet")


def scaling(runner: Runner) -> Iterator[BenchmarkResult]:
    """DSVM-UNet's step on one GPU, and on several by DDP, with and without their all-reduce."""
    counts = rank_counts(runner.device)
    if not counts:
        yield BenchmarkResult("scaling", "several GPUs", "DSVM-UNet", note="two GPUs are needed at least")
        return
    for images in runner.settings.scaling_images:
        case = runner.network_case("DSVM-UNet", images)
        yield runner.measured("scaling", str(images), "1 GPU", case, partial(runner.checks.network, case))
        for ranks in counts:
            yield from _on_several(runner, images, case, ranks)


def sharing(runner: Runner) -> Iterator[BenchmarkResult]:
    """The preset small and PlainConvUNet in one process, and in two at once, on the CPU's cores."""
    if runner.device.type != "cpu":
        yield BenchmarkResult("sharing", "two processes", "VM-UNet", note="it is about a CPU: choose --device cpu")
        return
    no_plain = plain_conv_unet.available()[1]
    for images in runner.settings.sharing_images:
        for implementation in _SHARING:
            label = f"{implementation}, {images}"
            case = replace(runner.network_case(implementation, images), sizes=runner.settings.sharing_sizes)
            if implementation == "PlainConvUNet" and no_plain:
                yield BenchmarkResult("sharing", label, "one process", note=no_plain)
                continue
            yield from _one_and_two(runner, label, case)


def _one_and_two(runner: Runner, label: str, case: NetworkCase) -> Iterator[BenchmarkResult]:
    for processes, name in ((1, "one process"), (TOGETHER, "two at once")):
        runner.progress(f"sharing: {label}, {name}")
        result = BenchmarkResult("sharing", label, name)
        try:
            result = replace(result, error=runner.checks.network(case))
            times = measure_sharing(case, processes, runner.settings.effort)
        except WrongResult as wrong:
            yield refused(result, wrong)
        except Exception as failure:
            yield broken(result, failure)
        else:
            measurement = Measurement(times.inference, times.forward, times.training, None, None)
            yield replace(result, measurement=measurement)


def _on_several(runner: Runner, images: ImageShape, case: NetworkCase, ranks: int) -> list[BenchmarkResult]:
    runner.progress(f"scaling: {images}, {ranks} GPUs")
    result = BenchmarkResult("scaling", str(images), f"{ranks} GPUs")
    try:
        times = measure_scaling(case, ranks, max(_LEAST_STEPS, runner.settings.effort.least))
    except ValueError as indivisible:
        return [replace(result, note=str(indivisible))]
    except torch.OutOfMemoryError:
        return [replace(result, note=f"does not fit into the memory of these {ranks} GPUs")]
    except WrongResult as wrong:
        return [refused(result, wrong)]
    except Exception as failure:
        return [broken(result, failure)]
    return [
        replace(result, measurement=Measurement(None, times.forward, times.training, None, None)),
        replace(
            result,
            implementation=f"{ranks} GPUs, no all-reduce",
            measurement=Measurement(None, times.alone_forward, times.alone_training, None, None),
        ),
    ]
