"""The training objective: nnU-Net's segmentation loss plus the ramped, weighted distillation terms."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nnunetv2_dsvm.architecture.cuda_graphs import CudaGraphs
from nnunetv2_dsvm.training.optimization import linear_ramp

SEGMENTATION = "segmentation"


class SegmentationWithDistillationLoss(nn.Module):
    """L = L_seg + r(epoch) * sum_k lambda_k * L_k.

    Called as nnU-Net calls a loss, `loss(output, target)`. A network in training returns its logits with its features
    (`VMUNetOutput`); plain logits, as in validation, get L_seg alone. The ramp r, `linear_ramp` over `ramp_epochs`, and
    the weights are ours.

    Args:
        segmentation_loss: L_seg(logits, target).
        distillation: `(encoder_features, decoder_features) -> {name: L_k}`, bare or wrapped for DDP.
        weights: lambda_k by the name of the term.
        ramp_epochs: the epoch from which r = 1.

    `cuda_graphs.training` replays the distillation as a CUDA graph, for a network whose features come from one: its
    many small kernels take longer to launch than to run.
    """

    def __init__(
        self, segmentation_loss: nn.Module, distillation: nn.Module, weights: Mapping[str, float], ramp_epochs: int
    ) -> None:
        super().__init__()
        self.segmentation_loss = segmentation_loss
        self.distillation = distillation
        self.weights = dict(weights)
        self.ramp_epochs = ramp_epochs
        self.cuda_graphs = CudaGraphs(inference=False, training=False, inputs_stay=True)
        self.last_terms: dict[str, torch.Tensor] = {}
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Sets the ramp of an epoch (counted from 0) and forgets the terms recorded so far."""
        self.ramp = linear_ramp(epoch, self.ramp_epochs)
        self._sums: dict[str, torch.Tensor] = {}
        self._steps = 0

    def forward(self, output: Any, target: Any) -> torch.Tensor:
        """The loss of one batch, a scalar.

        Args:
            output: logits (or a list of them, with deep supervision), or a named tuple with `logits`,
                `encoder_features` and `decoder_features`.
            target: whatever `segmentation_loss` takes.
        """
        if not hasattr(output, "encoder_features"):
            return self.segmentation_loss(output, target)
        segmentation = self.segmentation_loss(output.logits, target)
        features = (tuple(output.encoder_features), tuple(output.decoder_features))
        terms = self.cuda_graphs(self.distillation, lambda both: self.distillation(*both), features)
        self._record({SEGMENTATION: segmentation, **terms})
        return segmentation + self.ramp * sum(self.weights[name] * value for name, value in terms.items())

    def mean_terms(self) -> dict[str, float]:
        """The mean of L_seg and of each unweighted term over the steps since `set_epoch`; empty before the first."""
        return {name: (value / self._steps).item() for name, value in self._sums.items()}

    def _record(self, terms: dict[str, torch.Tensor]) -> None:
        # Sums stay on the device: reading a number here would make the GPU wait in every step.
        self.last_terms = {name: value.detach().float() for name, value in terms.items()}
        self._sums = {name: self._sums.get(name, 0) + value for name, value in self.last_terms.items()}
        self._steps += 1
