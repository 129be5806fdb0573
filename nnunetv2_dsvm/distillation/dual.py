"""Dual self-distillation: the global and the local term side by side, each optional."""

from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import nn

from nnunetv2_dsvm.architecture.stage_info import StageInfo, channels_of
from nnunetv2_dsvm.cuda_graphs import CudaGraphs
from nnunetv2_dsvm.distillation.distances import DistanceKind, FeatureDistance
from nnunetv2_dsvm.distillation.features import ProjectionKind
from nnunetv2_dsvm.distillation.progressive import ProgressiveSelfDistillation
from nnunetv2_dsvm.distillation.projection import ProjectionSelfDistillation

Term = Literal["projection", "progressive"]

_TERMS = {"projection": ProjectionSelfDistillation, "progressive": ProgressiveSelfDistillation}


class DualSelfDistillation(nn.Module):
    """L_proj and L_prog of "DSVM-UNet" (arXiv 2601.19690), for any encoder-decoder network's features.

    The projections are parameters of this module, never of the network: the network is trained with them and used
    without them.

    Its many small kernels take longer to launch than to run: `cuda_graphs.training` replays them as a CUDA graph, for
    features that come from a network's (`nnunetv2_dsvm.cuda_graphs`). With a mask, which is new in every
    step, it does not.

    Examples:
        >>> distillation = DualSelfDistillation([8, 16], [8, 16])
        >>> features = [torch.rand(1, 8, 16, 16), torch.rand(1, 16, 8, 8)]
        >>> sorted(distillation(features, features))
        ['progressive', 'projection']

    Args:
        encoder_channels: channels of each encoder stage, highest resolution first (at least one stage).
        decoder_channels: channels of each decoder stage, highest resolution first (at least one stage).
        terms: which of "projection" (global) and "progressive" (local) to compute, at least one.
        distance: "mse" (the paper's equations) or "kl".
        temperature: of "kl".
        standardise: standardise features over channels before comparing them.
        stop_gradient: keep the distillation's gradient from the teachers, as the paper does.
        projection: how features are brought to a teacher's channels, by a "convolution" (1x1, learned) or by "pooling"
            over channels (no parameters).
        dims: number of spatial axes of the features, 1 to 3.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        decoder_channels: Sequence[int],
        *,
        terms: Sequence[Term] = get_args(Term),
        distance: DistanceKind = "mse",
        temperature: float = FeatureDistance.temperature,
        standardise: bool = False,
        stop_gradient: bool = True,
        projection: ProjectionKind = "convolution",
        dims: int = 2,
    ) -> None:
        super().__init__()
        if not encoder_channels or not decoder_channels:
            raise ValueError(
                "the distillation needs at least one encoder and one decoder stage, got channels "
                f"{list(encoder_channels)} and {list(decoder_channels)}"
            )
        if not terms or isinstance(terms, str) or set(terms) - set(_TERMS) or len(set(terms)) != len(terms):
            raise ValueError(f"terms must be one or more of {list(_TERMS)}, each at most once, got {terms!r}")
        feature_distance = FeatureDistance(distance, temperature, standardise, stop_gradient)
        self.terms = nn.ModuleDict(
            {
                name: _TERMS[name](encoder_channels, decoder_channels, feature_distance, projection, dims)
                for name in terms
            }
        )
        self.cuda_graphs = CudaGraphs(inference=False, training=False, inputs_stay=True)

    @classmethod
    def from_stages(
        cls, encoder: Sequence[StageInfo], decoder: Sequence[StageInfo], **options: Any
    ) -> "DualSelfDistillation":
        """For the stages that a network states, or `describe_stages` finds; `options` are the class's other ones."""
        return cls(channels_of(encoder), channels_of(decoder), dims=len(encoder[0].stride), **options)

    def forward(
        self,
        encoder_features: Sequence[torch.Tensor],
        decoder_features: Sequence[torch.Tensor],
        mask: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Each term's unweighted value, a scalar of at least fp32, by the term's name.

        Args:
            encoder_features: the outputs (B, C_l, *spatial_l) of the encoder's stages, highest resolution first.
            decoder_features: the same of the decoder's stages, highest resolution first too.
            mask: (B, 1, *spatial), 1 where the image counts and 0 where it is ignored, of the image that the features
                cover; each term is then the mean over what counts, 0 where nothing does. None: everything counts.

        Raises:
            ValueError: the features have other channels, spatial axes or another number of stages than the module was
                built for.
        """
        features = tuple(encoder_features), tuple(decoder_features)
        if mask is not None or torch.compiler.is_compiling():
            return self._terms(features, mask)
        return self.cuda_graphs(self, self._terms, features)

    def _terms(
        self, features: tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]], mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        return {name: term(*features, mask) for name, term in self.terms.items()}


def compiled_terms(distillation: nn.Module) -> nn.Module:
    """A `DualSelfDistillation` by torch.compile.

    For each size of the maps anew: which matrices resize a map is decided while it is traced. On a GPU its many small
    kernels are replayed as torch's CUDA graphs.
    """
    return cast(nn.Module, torch.compile(distillation, dynamic=False, mode="reduce-overhead"))
