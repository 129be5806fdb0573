"""Global term: every stage is projected onto the decoder's last stage (projection self-distillation, L_proj)."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from nnunetv2_dsvm.distillation.distances import FeatureDistance
from nnunetv2_dsvm.distillation.features import ProjectionKind, channel_projection
from nnunetv2_dsvm.distillation.pairs import Pair
from nnunetv2_dsvm.distillation.term import SelfDistillationTerm


class ProjectionSelfDistillation(SelfDistillationTerm):
    """Pulls every stage towards f^d_1, the decoder's last and finest stage.

        L_proj = 1/(M_e + M_d - 1) * ( sum_{l=1..M_e} D(P^e_l(f^e_l), sg[f^d_1])
                                     + sum_{l=2..M_d} D(P^d_l(f^d_l), sg[f^d_1]) )

    The two sums are the paper's. P (a 1x1 convolution to f^d_1's channels, then a resize to its size, linear along each
    axis) and the division by the number of pairs are ours.

    Args:
        encoder_channels: channels of f^e_1 ... f^e_Me, highest resolution first.
        decoder_channels: channels of f^d_1 ... f^d_Md, highest resolution first.
        distance: D.
        projection: P by a 1x1 convolution, or by pooling over channels, which has no parameters.
        dims: number of the maps' spatial axes, 1 to 3.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        decoder_channels: Sequence[int],
        distance: FeatureDistance,
        projection: ProjectionKind = "convolution",
        dims: int = 2,
    ) -> None:
        super().__init__(encoder_channels, decoder_channels, distance, dims)
        teacher = decoder_channels[0]
        self.encoder_projections = nn.ModuleList(
            channel_projection(projection, dims, c, teacher) for c in encoder_channels
        )
        self.decoder_projections = nn.ModuleList(
            channel_projection(projection, dims, c, teacher) for c in decoder_channels[1:]
        )

    def pairs(
        self, encoder_features: Sequence[torch.Tensor], decoder_features: Sequence[torch.Tensor]
    ) -> Iterator[Pair]:
        """All stages but f^d_1, each with f^d_1."""
        teacher, *decoder = decoder_features
        projections = [*self.encoder_projections, *self.decoder_projections]
        for projection, student in zip(projections, [*encoder_features, *decoder], strict=True):
            yield Pair(projection, student, teacher)
