"""A decoder of blocks whose skips are the encoder's outputs, concatenated: what two relatives of VM-UNet have."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.head import Head2d

Expanding = Callable[[int, int, int], nn.Module]


class ConcatenatingDecoder(nn.Module):
    """From the encoder's last output up: expanding, concatenation with a skip, a linear layer, blocks; the heads.

    `seg_layers[0]` is the head at full resolution. With `auxiliary_heads`, `seg_layers[l]` is a head on decoder stage
    l = 1, 2, … (at H/4, H/8, …), used when `deep_supervision` is on.

    Args:
        num_classes: channels of the logits.
        dims: channels of the encoder's stages, H/4 first, doubling.
        expanding: makes a module from (channels, scale, channels after it), channels last to channels last.
        stages: the blocks of each decoder stage, deepest first, one fewer than the encoder has.
        deep_supervision, auxiliary_heads: as of the networks.
    """

    def __init__(
        self,
        num_classes: int,
        dims: Sequence[int],
        expanding: Expanding,
        stages: Sequence[nn.Module],
        *,
        deep_supervision: bool,
        auxiliary_heads: bool,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        deepest_first = dims[-2::-1]
        self.expandings = nn.ModuleList(expanding(2 * dim, 2, dim) for dim in deepest_first)
        self.fusions = nn.ModuleList(nn.Linear(2 * dim, dim) for dim in deepest_first)
        self.stages = nn.ModuleList(stages)
        self.final_expanding = expanding(dims[0], 4, dims[0])
        # See `cuda_graphs.converted_weights`.
        self.product_weights = [f"fusions.{i}.{name}" for i in range(len(stages)) for name in ("weight", "bias")]
        head_channels = [dims[0], *(dims[:-1] if auxiliary_heads else [])]
        self.seg_layers = nn.ModuleList(Head2d(channels, num_classes, kernel_size=1) for channels in head_channels)

    def forward(self, encoded: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The encoder's outputs, H/4 first, to the logits, largest first, and the stages' outputs, H/4 first.

        Channels are last but in the logits. A map that is larger than its skip, as an encoder that rounds sizes up
        makes it, is cropped to it.
        """
        x = encoded[-1]
        outputs: list[Tensor] = []
        parts = zip(self.expandings, self.fusions, self.stages, reversed(encoded[:-1]), strict=True)
        for expanding, fusion, stage, skip in parts:
            up = expanding(x)[:, : skip.shape[1], : skip.shape[2]]
            x = stage(fusion(torch.cat([up, skip], dim=-1)))
            outputs.insert(0, x)
        logits = [self._head(0, self.final_expanding(x))]
        if self.deep_supervision:
            logits += [self._head(level, output) for level, output in enumerate(outputs, 1)]
        return logits, outputs

    def _head(self, index: int, x: Tensor) -> Tensor:
        return self.seg_layers[index](x.permute(0, 3, 1, 2))
