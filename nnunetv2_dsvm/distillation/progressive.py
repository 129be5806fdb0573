"""Local term: every stage is pulled towards the next one (progressive self-distillation, L_prog)."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import nn

from nnunetv2_dsvm.distillation.distances import FeatureDistance
from nnunetv2_dsvm.distillation.features import ProjectionKind, average_pool, channel_projection
from nnunetv2_dsvm.distillation.pairs import Pair
from nnunetv2_dsvm.distillation.resize import spatial_size
from nnunetv2_dsvm.distillation.term import SelfDistillationTerm


class ProgressiveSelfDistillation(SelfDistillationTerm):
    """Pulls every stage towards the next one in the direction of the data: down the encoder, up the decoder.

        L_prog = 1/(M_e + M_d - 2) * ( sum_{l=2..M_e} D(Q^e_l(f^e_{l-1}), sg[f^e_l])
                                     + sum_{l=2..M_d} D(Q^d_l(f^d_l), sg[f^d_{l-1}]) )

    The two sums are the paper's. Q (a resize to the teacher's size and a 1x1 convolution to its channels) and the
    division by the number of pairs are ours. The resize is an average pooling in the encoder (x 1/2 between a VM-UNet's
    stages) and linear along each axis in the decoder (x 2). A resize whose weights sum to one and a 1x1 convolution
    commute, so each Q takes the cheaper order: the convolution always sees the smaller map.

    Args:
        encoder_channels: channels of f^e_1 ... f^e_Me, highest resolution first.
        decoder_channels: channels of f^d_1 ... f^d_Md, highest resolution first.
        distance: D.
        projection: Q by a 1x1 convolution, or by pooling over channels, which has no parameters.
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
        down, up = pairwise(encoder_channels), pairwise(decoder_channels)
        self.encoder_projections = nn.ModuleList(
            channel_projection(projection, dims, fine, coarse) for fine, coarse in down
        )
        self.decoder_projections = nn.ModuleList(
            channel_projection(projection, dims, coarse, fine) for fine, coarse in up
        )

    def pairs(
        self, encoder_features: Sequence[torch.Tensor], decoder_features: Sequence[torch.Tensor]
    ) -> Iterator[Pair]:
        """Neighbouring stages, the encoder's first; none where neither side has two."""
        for projection, (student, teacher) in zip(self.encoder_projections, pairwise(encoder_features), strict=True):
            yield Pair(projection, average_pool(student, spatial_size(teacher)), teacher)
        for projection, (teacher, student) in zip(self.decoder_projections, pairwise(decoder_features), strict=True):
            yield Pair(projection, student, teacher)
