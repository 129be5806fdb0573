"""From the command line's options to what is measured, with the default shapes of each device."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from nnunetv2_dsvm.architecture.vm_unet import PRESETS
from nnunetv2_dsvm.benchmark.cases.network import NetworkSizes
from nnunetv2_dsvm.benchmark.measuring.timing import Effort
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.ops import BACKEND_NAMES
from nnunetv2_dsvm.training.precision import trains_in_bf16

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
    backends: Sequence[str] | None
    scan_images: Sequence[ImageShape]
    scan_stages: Sequence[int]
    core_images: Sequence[ImageShape]
    core_stages: Sequence[int]
    network_images: Sequence[ImageShape]
    scaling_images: Sequence[ImageShape]
    sharing_images: Sequence[ImageShape]
    sizes: NetworkSizes
    sharing_sizes: NetworkSizes
    effort: Effort
    scan_backend: str = "auto"
    compile: bool = False


# The shapes of published trainings: 256² at batch 32, and 512² at nnU-Net's batch 12 and one image at a time.
_GPU_IMAGES = (ImageShape(32, 256, 256), ImageShape(12, 512, 512), ImageShape(1, 512, 512))
_ONE_IMAGE = (ImageShape(1, 256, 256),)  # of two processes that share a CPU
# Of the scan, the core, the network, its scaling and the sharing of a CPU.
_GPU_SHAPES = (_GPU_IMAGES, _GPU_IMAGES, _GPU_IMAGES, (ImageShape(64, 256, 256),), _ONE_IMAGE)
# Stage 1 of two images of 256²: 64×64 tokens, d_inner 192. The networks get what two cores do in a minute.
_CPU_SHAPES = (*tuple((ImageShape(2, edge, edge),) for edge in (256, 128, 64, 64)), _ONE_IMAGE)
_QUICK_IMAGES = (ImageShape(2, 32, 32),)
_SMALL_SIZES = NetworkSizes(
    **{name: PRESETS["small"][name] for name in ("dims", "encoder_depths", "decoder_depths", "d_state")}
)
_QUICK_SIZES = NetworkSizes(dims=(8, 16, 32, 64), encoder_depths=(1, 1, 1, 1), decoder_depths=(1, 1, 1, 1))

_CPU_EFFORT = Effort(warm_up=1, least=3, most=20, seconds=1.0, long_call=4.0)
_GPU_EFFORT = Effort(warm_up=3, least=10, most=100, seconds=1.0, long_call=0.5)


def make_plan(args: argparse.Namespace) -> Plan:
    """The plan that the options of `nnUNetv2_dsvm benchmark` describe.

    Raises:
        UserError: the device is not there, or sizes do not fit together.
    """
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device can be used here; see `nnUNetv2_dsvm doctor`, or choose --device cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError("MPS cannot be used here; choose --device cpu")
    known = ("auto", *BACKEND_NAMES)
    unknown = [name for name in [args.scan_backend, *(args.backends or [])] if name not in known]
    if unknown:
        raise UserError(f"unknown scan backend {', '.join(unknown)}: choose any of {', '.join(BACKEND_NAMES)}")
    sizes = _sizes(args)
    stages = tuple(range(1, len(sizes.dims) + 1))
    if args.stages is not None and not set(args.stages) <= set(stages):
        raise UserError(f"stages {args.stages} do not all exist: {len(sizes.dims)} dims give the stages {stages}")

    gpu = device != "cpu"
    shapes = _GPU_SHAPES if gpu else _CPU_SHAPES
    if args.quick:
        shapes = (_QUICK_IMAGES,) * 5
    scan, core, network, scaling, sharing = (_override(images, args.batch, args.size) for images in shapes)
    effort = _GPU_EFFORT if gpu else _CPU_EFFORT
    if args.quick:
        effort = replace(effort, least=1, seconds=0.0)
    if args.repeats:
        effort = replace(effort, least=args.repeats, most=max(args.repeats, effort.most))
    return Plan(
        device=device,
        dtype=args.dtype or _training_dtype(torch.device(device)),
        backends=args.backends,
        scan_images=scan,
        scan_stages=args.stages or (stages if gpu and not args.quick else (1,)),
        core_images=core,
        core_stages=args.stages or ((1,) if args.quick else stages if gpu else (stages[0], stages[-1])),
        network_images=network,
        scaling_images=scaling,
        sharing_images=sharing,
        sizes=sizes,
        sharing_sizes=sizes if args.dims or args.quick else _SMALL_SIZES,
        effort=effort,
        scan_backend=args.scan_backend,
        compile=args.compile,
    )


def _training_dtype(device: torch.device) -> str:
    """In which our trainer computes there."""
    if device.type == "cpu":
        return "float32"
    return "bfloat16" if trains_in_bf16(device) else "float16"


def _sizes(args: argparse.Namespace) -> NetworkSizes:
    default = _QUICK_SIZES if args.quick else NetworkSizes()
    sizes = NetworkSizes(
        args.dims or default.dims,
        args.encoder_depths or default.encoder_depths,
        args.decoder_depths or default.decoder_depths,
        args.d_state,
    )
    if not len(sizes.dims) == len(sizes.encoder_depths) == len(sizes.decoder_depths):
        raise UserError(
            f"dims {sizes.dims}, encoder depths {sizes.encoder_depths} and decoder depths {sizes.decoder_depths} "
            f"need one entry per stage"
        )
    return sizes


def _override(
    images: tuple[ImageShape, ...], batch: int | None, size: tuple[int, int] | None
) -> tuple[ImageShape, ...]:
    """The same images with another batch or size, each once."""
    changed = [ImageShape(batch or i.batch, *(size or (i.height, i.width))) for i in images]
    return tuple(dict.fromkeys(changed))
