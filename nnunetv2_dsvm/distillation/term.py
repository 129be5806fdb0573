"""What the terms of the self-distillation share: which features they take, which pixels count, the mean over pairs."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from nnunetv2_dsvm.distillation.distances import FeatureDistance
from nnunetv2_dsvm.distillation.features import check_channels, pixel_weight, project
from nnunetv2_dsvm.distillation.pairs import Pair, joint_mse
from nnunetv2_dsvm.distillation.precision import at_least_fp32
from nnunetv2_dsvm.distillation.resize import spatial_size


class SelfDistillationTerm(nn.Module, ABC):
    """The mean of the distances of pairs of a student and its teacher; a term says which pairs.

    On GPUs the mean squared errors of 2D maps are one operator for all pairs, see `joint_mse`.

    Args:
        encoder_channels: channels of f^e_1 ... f^e_Me, highest resolution first.
        decoder_channels: channels of f^d_1 ... f^d_Md, highest resolution first.
        distance: D.
        dims: number of the maps' spatial axes, 1 to 3.
    """

    def __init__(
        self, encoder_channels: Sequence[int], decoder_channels: Sequence[int], distance: FeatureDistance, dims: int
    ) -> None:
        super().__init__()
        self.dims = dims
        self.encoder_channels, self.decoder_channels = tuple(encoder_channels), tuple(decoder_channels)
        self.distance = distance

    @abstractmethod
    def pairs(
        self, encoder_features: Sequence[torch.Tensor], decoder_features: Sequence[torch.Tensor]
    ) -> Iterator[Pair]:
        """Each student, its teacher, and what brings the one to the other's channels.

        Args:
            encoder_features, decoder_features: of the channels that the term was built for.
        """

    def forward(
        self,
        encoder_features: Sequence[torch.Tensor],
        decoder_features: Sequence[torch.Tensor],
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The term as a scalar, at least fp32 whatever the autocast; 0 where there is no pair.

        Args:
            encoder_features: (B, C_l, *spatial_l), highest resolution first.
            decoder_features: (B, C_l, *spatial_l), highest resolution first.
            mask: (B, 1, *spatial), the pixels of the image that count (see `pixel_weight`); None: all.

        Raises:
            ValueError: the features are not those the term was built for.
        """
        check_channels("encoder", encoder_features, self.encoder_channels, self.dims)
        check_channels("decoder", decoder_features, self.decoder_channels, self.dims)
        pairs = list(self.pairs(encoder_features, decoder_features))
        if mask is None and self.distance.is_plain_mse() and (mean := joint_mse(pairs)) is not None:
            return mean
        distances: list[torch.Tensor] = []
        of_distance = None
        for projection, student, teacher in pairs:
            if teacher is not of_distance:  # one teacher may have several students
                of_distance, distance = teacher, self.distance.to(teacher, pixel_weight(mask, spatial_size(teacher)))
            distances.append(distance(project(projection, student)))
        return torch.stack(distances).mean() if distances else at_least_fp32(decoder_features[0]).new_zeros(())
