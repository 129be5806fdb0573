"""The training objective: nnU-Net's segmentation loss plus the ramped, weighted distillation terms."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.nn import functional as F

from nnunetv2_dsvm.errors import UserValueError
from nnunetv2_dsvm.training.optimization import linear_ramp

SEGMENTATION = "segmentation"
NO_FEATURES = (
    "the network's features did not reach the loss in a training step, which would train without the distillation. In "
    "a train_step of your own, call self.network(images) itself, in training mode, not its forward or its parts, and "
    "pass its whole output to self.loss; self.loss.segmentation_loss takes other logits. Where torch.compile compiles "
    "more than the network, set torch._dynamo.config.skip_nnmodule_hook_guards = False before the first call, or "
    "nnUNet_compile=f"
)


def pixels_not_ignored(target: torch.Tensor, ignore_label: int, has_regions: bool) -> torch.Tensor:
    """1 where a pixel or voxel is labelled and 0 where it has nnU-Net's ignore label, `(B, 1, *size)`, fp32.

    Args:
        target: (B, 1, *size), the labels; with regions (B, regions + 1, *size), the last of them the ignore label.
        ignore_label: its number.
        has_regions: which of the two.
    """
    ignored = target[:, -1:].bool() if has_regions else target == ignore_label
    return (~ignored).float()


def _over_the_features(mask: torch.Tensor, features: Sequence[torch.Tensor], stride: Sequence[int]) -> torch.Tensor:
    """Pads the mask to the image that the features cover: the network pads at the end of each axis, with nothing."""
    sizes = zip(stride, features[0].shape[2:], mask.shape[2:], strict=True)
    missing = [step * covered - size for step, covered, size in sizes]
    return F.pad(mask, [padding for at_the_end in reversed(missing) for padding in (0, at_the_end)])


def _has_gradient(output: Any) -> bool:
    maps = output if isinstance(output, (list, tuple)) else [output]
    return any(isinstance(logits, torch.Tensor) and logits.requires_grad for logits in maps)


def share_of_all_ranks(mask: torch.Tensor) -> torch.Tensor:
    """How a mean over this rank's mask counts in the mean over all ranks', as a multiple of its part of the ranks.

    DDP averages the gradients of all ranks alike, but one may hold more labelled pixels than another. Multiplied by
    this, the average of the ranks' masked means is the one mean over all their pixels; 0 where none is labelled.
    """
    here = mask.sum()
    everywhere = here.clone()
    dist.all_reduce(everywhere)
    return here * dist.get_world_size() / everywhere.clamp_min(torch.finfo(mask.dtype).tiny)


class SegmentationWithDistillationLoss(nn.Module):
    """L = L_seg + r(epoch) * sum_k lambda_k * L_k.

    Called as nnU-Net calls a loss, `loss(output, target)`. A network in training returns its logits with its features
    (`VMUNetOutput`, `FeaturesOutput`); plain logits, as in validation, get L_seg alone. The ramp r, `linear_ramp` over
    `ramp_epochs`, and the weights are ours.

    Where a dataset has an ignore label, ignored pixels do not drive the distillation either: each pair of features is
    compared where the image is labelled, a feature pixel counting with the labelled share of the image pixels it stands
    for, and the term is the mean over these. (As with L_seg, labelled pixels still see what surrounds them.)

    Args:
        segmentation_loss: L_seg(logits, target).
        distillation: `(encoder_features, decoder_features) -> {name: L_k}`, bare or wrapped for DDP.
        weights: lambda_k by the name of the term.
        ramp_epochs: the epoch from which r = 1.
        not_ignored: target -> (B, 1, *size), 1 where a pixel counts and 0 where it is ignored; None: all count.
        share: of a mask, how this process's terms count beside those of the others (`share_of_all_ranks`); None: alone.
        current_epoch: the epoch of a training (counted from 0), asked in every step; None: that of `set_epoch`.
        stride: pixels of the image that a pixel of the first encoder features stands for, along each axis
            (`StageInfo.stride`); with `not_ignored`, for a network that pads its images.
        in_training: whether the network is; plain logits with a gradient are then refused. None: never refused.
    """

    def __init__(
        self,
        segmentation_loss: nn.Module,
        distillation: nn.Module,
        weights: Mapping[str, float],
        ramp_epochs: int,
        not_ignored: Callable[[torch.Tensor], torch.Tensor] | None = None,
        share: Callable[[torch.Tensor], torch.Tensor] | None = None,
        current_epoch: Callable[[], int] | None = None,
        stride: Sequence[int] | None = None,
        in_training: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__()
        self.segmentation_loss = segmentation_loss
        self.distillation = distillation
        self.weights = dict(weights)
        self.ramp_epochs = ramp_epochs
        self.not_ignored = not_ignored
        self.share = share
        self.current_epoch = current_epoch
        self.stride = stride
        self.in_training = in_training
        self.last_terms: dict[str, torch.Tensor] = {}
        self.set_epoch(0)
        self._own = {*vars(self), *self._modules, "_own"}

    def __getattr__(self, name: str) -> Any:
        """What it does not have itself is the segmentation loss's, as if that were not wrapped."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("segmentation_loss", "_own") or not hasattr(self.segmentation_loss, name):
                raise
            return getattr(self.segmentation_loss, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets what the segmentation loss has and this has not, such as a weight that changes with the epoch, there."""
        if name not in vars(self).get("_own", {name}) and hasattr(self.segmentation_loss, name):
            setattr(self.segmentation_loss, name, value)
        else:
            super().__setattr__(name, value)

    def set_epoch(self, epoch: int) -> None:
        """Sets the ramp of an epoch (counted from 0) and forgets the terms recorded so far."""
        self.epoch_of_terms = epoch
        self.ramp = linear_ramp(epoch, self.ramp_epochs)
        self._sums: dict[str, torch.Tensor] = {}
        self._steps = 0

    def forward(self, output: Any, target: Any) -> torch.Tensor:
        """The loss of one batch, a scalar.

        Args:
            output: logits (or a list of them, with deep supervision), or a named tuple with `logits`,
                `encoder_features` and `decoder_features`.
            target: whatever `segmentation_loss` takes.

        Raises:
            UserValueError: plain logits with a gradient while the network is in training.
        """
        if not hasattr(output, "encoder_features"):
            if self.in_training is not None and self.in_training() and _has_gradient(output):
                raise UserValueError(NO_FEATURES)
            return self.segmentation_loss(output, target)
        if self.current_epoch is not None and self.current_epoch() != self.epoch_of_terms:
            self.set_epoch(self.current_epoch())
        segmentation = self.segmentation_loss(output.logits, target)
        features = tuple(output.encoder_features), tuple(output.decoder_features)
        if self.not_ignored is None:
            terms = self.distillation(*features)
        else:
            full_size = target[0] if isinstance(target, (list, tuple)) else target
            mask = self.not_ignored(full_size)
            if self.stride is not None:
                mask = _over_the_features(mask, output.encoder_features, self.stride)
            terms = self.distillation(*features, mask)
            if self.share is not None:
                share = self.share(mask)
                terms = {name: share * value for name, value in terms.items()}
        self._record({SEGMENTATION: segmentation, **terms})
        return segmentation + self.ramp * sum(self.weights[name] * value for name, value in terms.items())

    def mean_terms(self) -> dict[str, float]:
        """The mean of L_seg and of each unweighted term over the steps of `epoch_of_terms`; empty before the first."""
        return {name: (value / self._steps).item() for name, value in self._sums.items()}

    def _record(self, terms: dict[str, torch.Tensor]) -> None:
        # Sums stay on the device: reading a number here would make the GPU wait in every step.
        self.last_terms = {name: value.detach().float() for name, value in terms.items()}
        self._sums = {name: self._sums.get(name, 0) + value for name, value in self.last_terms.items()}
        self._steps += 1
