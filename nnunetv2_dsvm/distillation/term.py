"""What the terms of the self-distillation share: which features they take, which pixels count, the mean over pairs."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from nnunetv2_dsvm.distillation.distances import FeatureDistance
from nnunetv2_dsvm.distillation.features import at_least_fp32, check_channels, pixel_weight, plane


class SelfDistillationTerm(nn.Module, ABC):
    """The mean of the distances of pairs of a student and its teacher; a term says which pairs.

    Args:
        encoder_channels: channels of f^e_1 ... f^e_Me, highest resolution first.
        decoder_channels: channels of f^d_1 ... f^d_Md, highest resolution first.
        distance: D.
    """

    def __init__(
        self, encoder_channels: Sequence[int], decoder_channels: Sequence[int], distance: FeatureDistance
    ) -> None:
        super().__init__()
        self.encoder_channels, self.decoder_channels = tuple(encoder_channels), tuple(decoder_channels)
        self.distance = distance

    @abstractmethod
    def pairs(
        self, encoder_features: Sequence[torch.Tensor], decoder_features: Sequence[torch.Tensor]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Each student, brought to its teacher's channels, and the teacher `(B, C, H, W)`.

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
            encoder_features: (B, C_l, H_l, W_l), highest resolution first.
            decoder_features: (B, C_l, H_l, W_l), highest resolution first.
            mask: (B, 1, H, W), the pixels of the image that count (see `pixel_weight`); None: all.

        Raises:
            ValueError: the features are not those the term was built for.
        """
        check_channels("encoder", encoder_features, self.encoder_channels)
        check_channels("decoder", decoder_features, self.decoder_channels)
        distances: list[torch.Tensor] = []
        weighted, weight = None, None
        for student, teacher in self.pairs(encoder_features, decoder_features):
            if teacher is not weighted:  # one teacher may have several students
                weighted, weight = teacher, pixel_weight(mask, plane(teacher))
            distances.append(self.distance(student, teacher, weight))
        return torch.stack(distances).mean() if distances else at_least_fp32(decoder_features[0]).new_zeros(())
