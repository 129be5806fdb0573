"""What is measured: the options, and the default shapes of each device."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch

from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES
from nnunetv2_dsvm.architecture.vm_unet import PRESETS
from nnunetv2_dsvm.architecture.vm_unet_sizes import VMUNetSizes
from nnunetv2_dsvm.benchmark.cases.network import NetworkSizes
from nnunetv2_dsvm.benchmark.image_shape import ImageShape, halved
from nnunetv2_dsvm.benchmark.measuring.timing import Effort
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.host.devices import trains_in_bf16
from nnunetv2_dsvm.ops import BACKEND_NAMES


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        device, dtype: where, and in which number format; the 16-bit types under autocast.
        backends: of the suite scan; None: those that suit the device.
        scan_images, scan_stages, core_images, core_stages: whose scan and core are measured; images and volumes.
        network_images, scaling_images, sharing_images: of the suites of these names, and of the distillation.
        network_volumes: of the suite network; the distillation takes the first.
        sizes, sharing_sizes: of the networks, and of those of the suite sharing.
        effort: how often a call is repeated.
        scan_backend: of our core and network.
        compile: whether the networks are measured with torch.compile as well.
        relatives: of the suite family, by their names in the registry.
    """

    device: str
    dtype: str
    backends: Sequence[str] | None
    scan_images: Sequence[ImageShape]
    scan_stages: Sequence[int]
    core_images: Sequence[ImageShape]
    core_stages: Sequence[int]
    network_images: Sequence[ImageShape]
    network_volumes: Sequence[ImageShape]
    scaling_images: Sequence[ImageShape]
    sharing_images: Sequence[ImageShape]
    sizes: NetworkSizes
    sharing_sizes: NetworkSizes
    effort: Effort
    scan_backend: str = "auto"
    compile: bool = False
    relatives: Sequence[str] = tuple(RELATIVES)


@dataclass(frozen=True)
class SuiteImages:
    """The images of each suite; the distillation takes the network's.

    The volumes are of scan, core and network; the distillation takes the first.
    """

    scan: tuple[ImageShape, ...]
    core: tuple[ImageShape, ...]
    network: tuple[ImageShape, ...]
    scaling: tuple[ImageShape, ...]
    sharing: tuple[ImageShape, ...]
    volumes: tuple[ImageShape, ...]


_ONE_IMAGE = (ImageShape(1, 256, 256),)  # of two processes that share a CPU
# The shapes of published trainings: 256² at batch 32, and 512² at nnU-Net's batch 12 and one image at a time. The
# network's also large images and the small ones of the quickstart's plans.
_PUBLISHED = (ImageShape(32, 256, 256), ImageShape(12, 512, 512), ImageShape(1, 512, 512))
_GPU_IMAGES = SuiteImages(
    scan=_PUBLISHED,
    core=_PUBLISHED,
    network=(*_PUBLISHED, ImageShape(2, 1024, 1024), ImageShape(8, 112, 128)),
    scaling=(ImageShape(64, 256, 256),),
    sharing=_ONE_IMAGE,
    # As nnU-Net plans BraTS or LiTS, and the Hippocampus.
    volumes=(ImageShape(2, 128, 128, 128, halved(5)), ImageShape(9, 56, 40, 40, halved(3))),
)
# The scan's: stage 1 of two images of 256², 64×64 tokens, d_inner 192. The networks get what two cores do in a minute.
_CPU_IMAGES = SuiteImages(
    scan=(ImageShape(2, 256, 256),),
    core=(ImageShape(2, 128, 128),),
    network=(ImageShape(2, 64, 64),),
    scaling=(ImageShape(2, 64, 64),),
    sharing=_ONE_IMAGE,
    volumes=(ImageShape(1, 32, 32, 32, halved(4)),),
)
_TINY = (ImageShape(2, 32, 32),)
_TINY_VOLUMES = (ImageShape(2, 16, 16, 16, halved(3)),)
_QUICK_IMAGES = SuiteImages(scan=_TINY, core=_TINY, network=_TINY, scaling=_TINY, sharing=_TINY, volumes=_TINY_VOLUMES)
_SMALL = PRESETS["small"]
_SMALL_SIZES = NetworkSizes(_SMALL.dims, _SMALL.encoder_depths, _SMALL.decoder_depths, _SMALL.d_state)
_QUICK_SIZES = NetworkSizes(dims=(8, 16, 32, 64), encoder_depths=(1, 1, 1, 1), decoder_depths=(1, 1, 1, 1))

_CPU_EFFORT = Effort(warm_up=1, least=3, most=20, seconds=1.0, long_call=4.0)
_GPU_EFFORT = Effort(warm_up=3, least=10, most=100, seconds=1.0, long_call=0.5)


def choose_settings(
    *,
    device: str | None = None,
    dtype: str | None = None,
    backends: Sequence[str] | None = None,
    scan_backend: str = "auto",
    batch: int | None = None,
    size: tuple[int, int] | None = None,
    stages: Sequence[int] | None = None,
    dims: tuple[int, ...] | None = None,
    encoder_depths: tuple[int, ...] | None = None,
    decoder_depths: tuple[int, ...] | None = None,
    d_state: int = 16,
    fine_channels: int = 0,
    compile: bool = False,
    relatives: Sequence[str] | None = None,
    repeats: int | None = None,
    quick: bool = False,
) -> Settings:
    """The options of `nnUNetv2_dsvm benchmark`; what is None is chosen by the device.

    Args:
        device: cpu, cuda or mps; by default cuda if there is one, else cpu.
        dtype: float32, float16 or bfloat16; by default what our trainer computes in there.
        backends: of the suite scan.
        scan_backend: of our core and network.
        batch, size: images per batch, and their height and width in pixels, for every suite; then without volumes.
        stages: 1, 2, …, whose scan, core and block are measured.
        dims, encoder_depths, decoder_depths, d_state, fine_channels: sizes of the networks.
        compile: measure the networks with torch.compile as well.
        relatives: of the suite family, by their names in the registry; by default all.
        repeats: at least so many timed calls.
        quick: tiny shapes, to see that everything works.

    Raises:
        UserError: the device is not there, a name is unknown, or sizes do not fit together.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_device(device)
    known = ("auto", *BACKEND_NAMES)
    unknown = [name for name in [scan_backend, *(backends or [])] if name not in known]
    if unknown:
        raise UserError(f"unknown scan backend {', '.join(unknown)}: choose any of {', '.join(BACKEND_NAMES)}")
    relatives = tuple(dict.fromkeys(relatives or RELATIVES))
    if unknown := [name for name in relatives if name not in RELATIVES]:
        raise UserError(f"unknown relative {', '.join(unknown)}: choose any of {', '.join(RELATIVES)}")
    default = _QUICK_SIZES if quick else NetworkSizes()
    sizes = NetworkSizes(
        dims or default.dims,
        encoder_depths or default.encoder_depths,
        decoder_depths or default.decoder_depths,
        d_state,
        fine_channels,
    )
    _check_sizes(sizes)
    all_stages = tuple(range(1, len(sizes.dims) + 1))
    if stages is not None and not set(stages) <= set(all_stages):
        raise UserError(f"stages {stages} do not all exist: {len(sizes.dims)} dims give the stages {all_stages}")

    gpu = device != "cpu"
    images = _QUICK_IMAGES if quick else _GPU_IMAGES if gpu else _CPU_IMAGES
    fitting = tuple(v for v in images.volumes if not size and v.planned_stages <= len(sizes.dims))
    volumes = _override(fitting, batch, None)
    return Settings(
        device=device,
        dtype=dtype or _training_dtype(torch.device(device)),
        backends=backends,
        scan_images=_override(images.scan, batch, size) + volumes,
        scan_stages=stages or (all_stages if gpu and not quick else (1,)),
        core_images=_override(images.core, batch, size) + volumes,
        core_stages=stages or ((1,) if quick else all_stages if gpu else (all_stages[0], all_stages[-1])),
        network_images=_override(images.network, batch, size),
        network_volumes=volumes,
        scaling_images=_override(images.scaling, batch, size),
        sharing_images=_override(images.sharing, batch, size),
        sizes=sizes,
        sharing_sizes=sizes if dims or quick else _SMALL_SIZES,
        effort=_effort(gpu, repeats, quick),
        scan_backend=scan_backend,
        compile=compile,
        relatives=relatives,
    )


def _check_device(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device can be used here; see `nnUNetv2_dsvm doctor`, or choose --device cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError("MPS cannot be used here; choose --device cpu")


def _check_sizes(sizes: NetworkSizes) -> None:
    if not len(sizes.dims) == len(sizes.encoder_depths) == len(sizes.decoder_depths):
        raise UserError(
            f"dims {sizes.dims}, encoder depths {sizes.encoder_depths} and decoder depths {sizes.decoder_depths} "
            f"need one entry per stage"
        )
    try:
        VMUNetSizes(**asdict(sizes))
    except ValueError as error:
        raise UserError(f"these sizes give no VM-UNet: {error}") from error


def _effort(gpu: bool, repeats: int | None, quick: bool) -> Effort:
    effort = _GPU_EFFORT if gpu else _CPU_EFFORT
    if quick:
        effort = replace(effort, least=1, seconds=0.0)
    if repeats:
        effort = replace(effort, least=repeats, most=max(repeats, effort.most))
    return effort


def _training_dtype(device: torch.device) -> str:
    """In which our trainer computes there."""
    if device.type == "cpu":
        return "float32"
    return "bfloat16" if trains_in_bf16(device) else "float16"


def _override(
    images: tuple[ImageShape, ...], batch: int | None, size: tuple[int, int] | None
) -> tuple[ImageShape, ...]:
    """The same images with another batch or size, each once."""
    changed = [replace(i, batch=batch or i.batch) for i in images]
    if size:
        changed = [ImageShape(i.batch, *size) for i in changed]
    return tuple(dict.fromkeys(changed))
