"""A network's training step and inference, as nnU-Net runs them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunetv2_dsvm.architecture.stage_info import StageInfo
from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.architecture.vm_unet_sizes import VMUNetSizes
from nnunetv2_dsvm.benchmark.cases.conventional import conventional_network
from nnunetv2_dsvm.benchmark.cases.plain_conv_unet import plain_conv_unet
from nnunetv2_dsvm.benchmark.cases.workload import DTYPES, Workload, autocast
from nnunetv2_dsvm.cuda_graphs import CudaGraphs
from nnunetv2_dsvm.distillation import DualSelfDistillation
from nnunetv2_dsvm.distillation.dual import compiled_terms
from nnunetv2_dsvm.planning.plan_strides import strides_of_plan
from nnunetv2_dsvm.training.features import BothSides, passes_on_features, return_features, stages_of
from nnunetv2_dsvm.training.loss import SegmentationWithDistillationLoss

Implementation = Literal["VM-UNet", "DSVM-UNet", "conventional VM-UNet", "PlainConvUNet"]
INPUT_CHANNELS, NUM_CLASSES = 3, 2
_GRADIENT_NORM = 12  # nnU-Net clips to this
_NOT_NAMED: BothSides = (None, None)  # the network's own stages


class DiceAndCrossEntropy(nn.Module):
    """Cross-entropy minus soft Dice over the batch, the two at equal weights: the kind of loss nnU-Net trains with."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits `(B, classes, *sizes)`, target `(B, *sizes)` of class indices; a scalar."""
        probabilities = logits.float().softmax(1)
        truth = F.one_hot(target, logits.shape[1]).movedim(-1, 1)
        axes = (0, *range(2, logits.ndim))
        overlap = (probabilities * truth).sum(axes)
        dice = (2 * overlap + 1e-5) / (probabilities.sum(axes) + truth.sum(axes) + 1e-5)
        return F.cross_entropy(logits, target) - dice.mean()


@dataclass(frozen=True)
class NetworkSizes:
    """What a VM-UNet is built from; PlainConvUNet is planned from the image size alone."""

    dims: tuple[int, ...] = (96, 192, 384, 768)
    encoder_depths: tuple[int, ...] = (2, 2, 2, 2)
    decoder_depths: tuple[int, ...] = (2, 2, 2, 1)
    d_state: int = 16
    fine_channels: int = 0


@dataclass(frozen=True)
class NetworkCase:
    """One network on images of `height` x `width`, under AMP for the 16-bit types.

    Attributes:
        depth, plan: of volumes, the latter the strides that nnU-Net plans for them.
        both_terms: PlainConvUNet with the distillation as nnUNetTrainerDistilled adds it, compiled if the network is.
    """

    implementation: Implementation
    batch: int
    height: int
    width: int
    sizes: NetworkSizes
    dtype: str
    device: str
    scan_backend: str = "auto"
    compiled: bool = False
    depth: int | None = None
    plan: tuple[tuple[int, ...], ...] = ()
    both_terms: bool = False
    counts_weights = True
    wants_kept = False

    def tiny(self) -> "NetworkCase":
        # Two deepest feature maps' pixels: instance norm refuses to train on one.
        return replace(self, batch=2, height=64, width=64, depth=self.depth and 64, compiled=False)

    @property
    def image(self) -> tuple[int, ...]:
        """Height and width, of volumes with the depth before them."""
        return (self.height, self.width) if self.depth is None else (self.depth, self.height, self.width)

    def vm_unet(self) -> VMUNet:
        """Our network of these sizes, on the device, with weights that depend on the sizes only."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            sizes = VMUNetSizes(**asdict(self.sizes))
            if self.plan:
                sizes = sizes.with_strides(strides_of_plan(self.plan))
            network = VMUNet(INPUT_CHANNELS, NUM_CLASSES, **sizes, scan_backend=self.scan_backend).to(self.device)
        network.cuda_graphs.training = True  # as the trainer sets it
        return network

    def network(self) -> nn.Module:
        """The implementation's network, on the device; PlainConvUNet's weights depend on the image size only."""
        if self.implementation == "PlainConvUNet":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return plain_conv_unet(INPUT_CHANNELS, NUM_CLASSES, self.image, self.plan).to(self.device)
        network = self.vm_unet()
        if self.implementation == "conventional VM-UNet":
            network = conventional_network(network)
            network.cuda_graphs = CudaGraphs(inference=False, training=False)
        return network

    def build(self, wrapped: Callable[[nn.Module], nn.Module] = lambda module: module, seed: int = 1) -> Workload:
        """The step and the inference on random images; `wrapped` gets each module with parameters, to make it DDP's."""
        device, dtype = torch.device(self.device), DTYPES[self.dtype]
        network = self.network()
        loss: Any = DiceAndCrossEntropy()
        parameters = list(network.parameters())
        if self.implementation == "DSVM-UNet" or self.both_terms:
            image = torch.zeros(1, INPUT_CHANNELS, *self.image, device=device)
            loss = _distillation_loss(stages_of("the benchmark", network, _NOT_NAMED, image), loss).to(device)
            return_features(network, _NOT_NAMED)
            loss.distillation.cuda_graphs.training = passes_on_features(network) and not self.compiled
            parameters += loss.parameters()
        run: Callable[[Tensor], Any] = wrapped(_compiled(network) if self.compiled else network)
        if isinstance(loss, SegmentationWithDistillationLoss):
            terms = loss.distillation
            loss.distillation = wrapped(compiled_terms(terms) if self.compiled and self.both_terms else terms)
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=device.type == "cuda")
        # A low scale: with torch's default, 2^16, the first steps overflow and skip the optimizer's work.
        scaler = torch.amp.GradScaler(device.type, init_scale=2.0**8, enabled=dtype == torch.float16)
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(self.batch, INPUT_CHANNELS, *self.image, generator=generator).to(device)
        target = torch.randint(NUM_CLASSES, (self.batch, *self.image), generator=generator).to(device)

        def infer() -> Tensor:
            with torch.no_grad(), autocast(device, dtype):
                return run(images)

        def forward() -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            with autocast(device, dtype):
                return loss(run(images), target)

        def backward(value: Tensor) -> None:
            scaler.scale(value).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, _GRADIENT_NORM)
            scaler.step(optimizer)
            scaler.update()

        return Workload(infer, forward, backward, set_training=network.train)


def _compiled(network: nn.Module) -> nn.Module:
    """As nnU-Net compiles: for the size of the images, and not for any size because another one was compiled before."""
    torch.compiler.reset()
    compiled = torch.compile(network)
    assert isinstance(compiled, nn.Module)
    return compiled


def _distillation_loss(
    stages: tuple[Sequence[StageInfo], Sequence[StageInfo]], segmentation_loss: nn.Module
) -> SegmentationWithDistillationLoss:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        distillation = DualSelfDistillation.from_stages(*stages)
    weights = dict.fromkeys(distillation.terms, 1.0)
    loss = SegmentationWithDistillationLoss(segmentation_loss, distillation, weights, ramp_epochs=1)
    loss.set_epoch(1)
    return loss
