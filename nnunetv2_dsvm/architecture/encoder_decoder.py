"""VM-UNet's encoder and decoder. Inside them channels are last, `(B, H, W, C)`."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.checkpointed_blocks import Blocks
from nnunetv2_dsvm.architecture.blocks.resampling import PATCH_SIZE, PatchEmbedding, PatchExpanding, PatchMerging
from nnunetv2_dsvm.architecture.blocks.stochastic_depth import drop_path_rates
from nnunetv2_dsvm.architecture.blocks.vss_block import VSSBlock
from nnunetv2_dsvm.architecture.vm_unet_sizes import VMUNetSizes


class HowBlocksRun(NamedTuple):
    """What changes time and memory of a block, not its numbers."""

    gradient_checkpointing: bool
    scan_backend: str


class Stage(Blocks):
    """VSS blocks at one resolution, `(B, H, W, dim)`."""

    def __init__(self, dim: int, drop_paths: Sequence[float], d_state: int, how: HowBlocksRun) -> None:
        blocks = (VSSBlock(dim, d_state, p, how.scan_backend) for p in drop_paths)
        super().__init__(blocks, how.gradient_checkpointing)


class VMUNetEncoder(nn.Module):
    """Patch embedding and the encoder's stages; patch merging between them."""

    def __init__(self, input_channels: int, sizes: VMUNetSizes, how: HowBlocksRun) -> None:
        super().__init__()
        self.output_channels = list(sizes.dims)
        self.patch_embedding = PatchEmbedding(input_channels, sizes.dims[0])
        depths = sizes.encoder_depths
        drop_paths = drop_path_rates(0.0, sizes.drop_path_rate, depths)
        self.stages = nn.ModuleList(
            Stage(dim, p, sizes.d_state, how) for dim, p in zip(sizes.dims, drop_paths, strict=True)
        )
        self.mergings = nn.ModuleList(PatchMerging(dim) for dim in sizes.dims[:-1])

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Image `(B, channels, H, W)` to the inputs and the outputs of the stages, H/4 first, channels last."""
        x = self.patch_embedding(x)
        inputs, outputs = [], []
        for i, stage in enumerate(self.stages):
            if i > 0:
                x = self.mergings[i - 1](x)
            inputs.append(x)
            x = stage(x)
            outputs.append(x)
        return inputs, outputs


class VMUNetDecoder(nn.Module):
    """The decoder's stages, patch expanding between them, and the segmentation heads.

    `seg_layers[0]` is the head at full resolution. With `auxiliary_heads`, `seg_layers[l]` is a head on decoder stage
    l = 1 … M - 1 (at H/4, H/8, …), used when `deep_supervision` is on.
    """

    def __init__(
        self, num_classes: int, sizes: VMUNetSizes, how: HowBlocksRun, *, deep_supervision: bool, auxiliary_heads: bool
    ) -> None:
        super().__init__()
        dims, depths = sizes.dims, sizes.decoder_depths
        self.output_channels = list(dims)
        self.deep_supervision = deep_supervision
        deepest_first = list(reversed(dims))
        drop_paths = drop_path_rates(sizes.drop_path_rate, 0.0, depths)
        self.stages = nn.ModuleList(
            Stage(dim, p, sizes.d_state, how) for dim, p in zip(deepest_first, drop_paths, strict=True)
        )
        self.expandings = nn.ModuleList(PatchExpanding(dim, 2, dim // 2) for dim in deepest_first[:-1])
        self.final_expanding = PatchExpanding(dims[0], PATCH_SIZE, dims[0] // PATCH_SIZE)
        head_channels = [dims[0] // PATCH_SIZE, *(dims[:-1] if auxiliary_heads else [])]
        self.seg_layers = nn.ModuleList(nn.Conv2d(c, num_classes, kernel_size=1) for c in head_channels)

    def forward(self, stage_inputs: Sequence[Tensor], bottleneck: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Logits `(B, classes, …)`, largest first, and the outputs of the stages, H/4 first, channels last.

        `stage_inputs` are the encoder's skips. They are added before the patch expanding, and so the skip of stage M
        meets the output of decoder stage M; the one at H/4 is never used (VM-UNet's official code).
        """
        x = self.stages[0](bottleneck)
        outputs = [x]
        for stage, expanding, skip in zip(self.stages[1:], self.expandings, reversed(stage_inputs), strict=False):
            x = stage(expanding(x + skip))
            outputs.insert(0, x)
        logits = [self._head(0, self.final_expanding(x))]
        if self.deep_supervision:
            logits += [self._head(level, outputs[level - 1]) for level in range(1, len(self.seg_layers))]
        return logits, outputs

    def _head(self, index: int, x: Tensor) -> Tensor:
        return self.seg_layers[index](x.permute(0, 3, 1, 2))
