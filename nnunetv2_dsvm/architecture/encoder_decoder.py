"""VM-UNet's encoder and decoder. Inside them channels are last, `(B, *sizes, C)`."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.checkpointed_blocks import Blocks
from nnunetv2_dsvm.architecture.blocks.convolution import channels_first
from nnunetv2_dsvm.architecture.blocks.gated_convolution import GatedConvolutionBlock
from nnunetv2_dsvm.architecture.blocks.head import head
from nnunetv2_dsvm.architecture.blocks.resampling import PatchEmbedding, PatchExpanding, PatchMerging
from nnunetv2_dsvm.architecture.blocks.stem import ConvolutionalStem, ConvolutionStep, FineDecoder, FineEncoder
from nnunetv2_dsvm.architecture.blocks.stochastic_depth import drop_path_rates
from nnunetv2_dsvm.architecture.blocks.vss_block import VSSBlock
from nnunetv2_dsvm.architecture.vm_unet_sizes import VMUNetSizes


class HowBlocksRun(NamedTuple):
    """What changes time and memory of a block, not its numbers."""

    gradient_checkpointing: bool
    scan_backend: str


class Stage(Blocks):
    """VSS blocks at one resolution, `(B, *sizes, dim)`; those without their scan where the sizes say so."""

    def __init__(self, dim: int, drop_paths: Sequence[float], sizes: VMUNetSizes, how: HowBlocksRun) -> None:
        blocks: Iterable[nn.Module]
        if sizes.scan:
            blocks = (VSSBlock(dim, sizes.d_state, p, how.scan_backend, sizes.axes) for p in drop_paths)
        else:
            blocks = (GatedConvolutionBlock(dim, p, sizes.axes) for p in drop_paths)
        super().__init__(blocks, how.gradient_checkpointing)


class VMUNetEncoder(nn.Module):
    """Patch embedding, or what is in its place, and the encoder's stages; patch merging between them."""

    def __init__(self, input_channels: int, sizes: VMUNetSizes, how: HowBlocksRun) -> None:
        super().__init__()
        self.output_channels = list(sizes.dims)
        dim, step = sizes.dims[0], sizes.strides[1]
        self.patch_embedding: nn.Module
        if sizes.fine_channels:
            self.patch_embedding = FineEncoder(input_channels, sizes.fine_channels, dim, step)
        else:
            embedding = ConvolutionalStem if sizes.stem == "convolutions" else PatchEmbedding
            self.patch_embedding = embedding(input_channels, dim, step)
        depths = sizes.encoder_depths
        drop_paths = drop_path_rates(0.0, sizes.drop_path_rate, depths)
        self.stages = nn.ModuleList(Stage(dim, p, sizes, how) for dim, p in zip(sizes.dims, drop_paths, strict=True))
        self.mergings = nn.ModuleList(
            PatchMerging(dim, step) for dim, step in zip(sizes.dims, sizes.strides[2:], strict=False)
        )

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Image `(B, channels, *sizes)` to the inputs and the outputs of the stages, finest first, channels last.

        Third what is finer than they, channels first: the image, or with `fine_channels` what `FineEncoder`'s stages
        give.
        """
        finer = [x]
        x = self.patch_embedding(x)
        if isinstance(x, tuple):
            x, finer = x
        inputs, outputs = [], []
        for i, stage in enumerate(self.stages):
            if i > 0:
                x = self.mergings[i - 1](x)
            inputs.append(x)
            x = stage(x)
            outputs.append(x)
        return inputs, outputs, finer


class VMUNetDecoder(nn.Module):
    """The decoder's stages, patch expanding between them, and the segmentation heads.

    `seg_layers[0]` is the head at full resolution. With `auxiliary_heads`, `seg_layers[l]` is a head on decoder stage
    l = 1 … M - 1 (of images at H/4, H/8, …), used when `deep_supervision` is on.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        sizes: VMUNetSizes,
        how: HowBlocksRun,
        *,
        deep_supervision: bool,
        auxiliary_heads: bool,
    ) -> None:
        super().__init__()
        dims, depths = sizes.dims, sizes.decoder_depths
        self.output_channels = list(dims)
        self.deep_supervision = deep_supervision
        deepest_first = list(reversed(dims))
        drop_paths = drop_path_rates(sizes.drop_path_rate, 0.0, depths)
        self.stages = nn.ModuleList(Stage(dim, p, sizes, how) for dim, p in zip(deepest_first, drop_paths, strict=True))
        self.expandings = nn.ModuleList(
            PatchExpanding(dim, step, dim // 2)
            for dim, step in zip(deepest_first, reversed(sizes.strides[2:]), strict=False)
        )
        self.full_resolution = None
        if sizes.fine_channels:
            channels = sizes.fine_channels
            self.final_expanding: nn.Module = FineDecoder(channels, dims[0], sizes.strides[1])
        else:
            channels = dims[0] // 4
            self.final_expanding = PatchExpanding(dims[0], sizes.strides[1], channels)
        if sizes.full_resolution_channels:
            self.full_resolution = FullResolution(input_channels, channels, sizes)
            channels = sizes.full_resolution_channels
        head_channels = [channels, *(dims[:-1] if auxiliary_heads else [])]
        self.seg_layers = nn.ModuleList(head(sizes.axes)(c, num_classes, kernel_size=1) for c in head_channels)

    def forward(
        self, finer: Sequence[Tensor], stage_inputs: Sequence[Tensor], bottleneck: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Logits `(B, classes, …)`, largest first, and the outputs of the stages, finest first, channels last.

        `finer` is what the encoder gives third, `stage_inputs` are its skips. These are added before the patch
        expanding, and so the skip of stage M meets the output of decoder stage M; the finest is not used (VM-UNet's
        official code), nor is what is finer, but with `full_resolution_channels` or `fine_channels`.
        """
        x = self.stages[0](bottleneck)
        outputs = [x]
        for stage, expanding, skip in zip(self.stages[1:], self.expandings, reversed(stage_inputs), strict=False):
            x = stage(expanding(x + skip))
            outputs.insert(0, x)
        if isinstance(self.final_expanding, FineDecoder):
            x = self.final_expanding(x + stage_inputs[0], finer)
        elif self.full_resolution is None:
            x = self.final_expanding(x)
        else:
            x = self.full_resolution(finer[0], self.final_expanding(x + stage_inputs[0]))
        logits = [self._head(0, x)]
        if self.deep_supervision:
            logits += [self._head(level, outputs[level - 1]) for level in range(1, len(self.seg_layers))]
        return logits, outputs

    def _head(self, index: int, x: Tensor) -> Tensor:
        return self.seg_layers[index](channels_first(x))


class FullResolution(nn.Module):
    """What the last expanding gives, `(B, *sizes, channels)`, joined to a convolution of the image `(B, …, *sizes)`.

    What patches cannot show, structures smaller than one, comes from the image itself. (Ours.)
    """

    def __init__(self, input_channels: int, channels: int, sizes: VMUNetSizes) -> None:
        super().__init__()
        width, step = sizes.full_resolution_channels, [1] * sizes.axes
        self.of_image = ConvolutionStep(input_channels, width, step)
        self.of_both = ConvolutionStep(channels + width, width, step)

    def forward(self, image: Tensor, expanded: Tensor) -> Tensor:
        return self.of_both(channels_first(torch.cat([expanded, self.of_image(image)], dim=-1)))
