"""U-Mamba (arXiv 2401.04722): nnU-Net's residual U-Net with Mamba over its flattened feature maps, in 2D and 3D."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.mamba_1d import Mamba
from nnunetv2_dsvm.architecture.blocks.convolution import convolution
from nnunetv2_dsvm.architecture.blocks.residual_conv import ConvNorm, LeakyReLU, ResidualConv
from nnunetv2_dsvm.architecture.relatives.tmp_base import Relative
from nnunetv2_dsvm.architecture.stage_info import Axes, StageInfo, total_strides
from nnunetv2_dsvm.files.text import by

_POOLINGS = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
_TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class UMambaShape(NamedTuple):
    """What encoder and decoder are both built from: one entry a stage, full resolution first; see `UMamba`."""

    features: Sequence[int]
    kernels: Sequence[Axes]
    strides: Sequence[Axes]
    january: bool

    @property
    def axes(self) -> int:
        """2 or 3."""
        return len(self.kernels[0])

    def mamba_layers(self, patch_size: Axes) -> dict[int, tuple[int, bool]]:
        """Of Enc: stage, from 0, to the width of the Mamba layer behind it and whether its tokens are the channels."""
        last = len(self.features) - 1
        every = 1 if self.axes == 3 or self.january else 2
        layers = {}
        for stage in range(last % every, last + 1, every):
            positions = math.prod(-(-n // s) for n, s in zip(patch_size, total_strides(self.strides)[stage], strict=True))
            over_channels = positions <= self.features[stage] and not self.january
            layers[stage] = (positions if over_channels else self.features[stage], over_channels)
        return layers

    def stage(self, in_channels: int, level: int, stride: Axes | int, blocks: int) -> nn.Sequential:
        """Residual blocks of a stage, the first of which changes the shape."""
        channels, kernel = self.features[level], self.kernels[level]
        strided = stride != 1 and set(stride) != {1}
        shortcut: nn.Module
        if self.january:
            layers: list[nn.Module] = [_POOLINGS[self.axes](stride, stride)] if strided else []
            if in_channels != channels:
                layers.append(ConvNorm(in_channels, channels, [1] * self.axes, bias=False))
            shortcut = nn.Sequential(*layers)
        else:
            shortcut = convolution(self.axes)(in_channels, channels, 1, stride)
        first = ResidualConv(in_channels, channels, kernel, stride, shortcut=shortcut)
        others = (ResidualConv(channels, channels, kernel, shortcut=nn.Identity()) for _ in range(blocks - 1))
        return nn.Sequential(first, *others)

    def upsampling(self, level: int) -> nn.Module:
        """From the stage below `level` to its size and channels."""
        stride, before, channels = self.strides[level + 1], self.features[level + 1], self.features[level]
        if self.january:
            return _TRANSPOSED[self.axes](before, channels, stride, stride)
        # The official code convolves the larger map, which gives the same.
        return nn.Sequential(convolution(self.axes)(before, channels, 1), nn.Upsample(scale_factor=tuple(stride)))


class MambaLayer(nn.Module):
    """Mamba(LayerNorm(x)) over the positions of `(B, C, *sizes)`, last axis fastest, or over its channels.

    The result takes the place of x: no residual, and no norm behind it.

    Args:
        width: of a token: C, or the number of positions.
        over_channels: the tokens are the channels.
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.
    """

    def __init__(self, width: int, over_channels: bool, scan_backend: str) -> None:
        super().__init__()
        self.over_channels = over_channels
        self.norm = nn.LayerNorm(width)
        self.mamba = Mamba(width, scan_backend=scan_backend)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2) if self.over_channels else x.flatten(2).mT
        tokens = self.mamba(tokens, self.norm)
        return (tokens if self.over_channels else tokens.mT).reshape(x.shape)


class UMambaEncoder(nn.Module):
    """The stem, the stages, the Mamba layers behind some of them, by the number of the stage, and one behind all (Bot)."""

    def __init__(
        self,
        input_channels: int,
        shape: UMambaShape,
        blocks: Sequence[int],
        mamba_layers: Mapping[int, tuple[int, bool]] | None,
        scan_backend: str,
    ) -> None:
        super().__init__()
        self.output_channels = list(shape.features)
        self.stem = (
            nn.Sequential(ConvNorm(input_channels, shape.features[0], shape.kernels[0]), LeakyReLU())
            if shape.january
            else shape.stage(input_channels, 0, 1, blocks[0])
        )
        before = [shape.features[0], *shape.features]
        self.stages = nn.ModuleList(
            shape.stage(before[level], level, stride, blocks[level]) for level, stride in enumerate(shape.strides)
        )
        self.mamba_layers = nn.ModuleDict(
            {str(level): MambaLayer(*layer, scan_backend) for level, layer in (mamba_layers or {}).items()}
        )
        self.bottleneck = (
            MambaLayer(shape.features[-1], False, scan_backend) if mamba_layers is None else nn.Identity()
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image to the outputs of the stages, full resolution first."""
        x = self.stem(x)
        outputs = []
        for level, stage in enumerate(self.stages):
            x = stage(x)
            if str(level) in self.mamba_layers:
                x = self.mamba_layers[str(level)](x)
            outputs.append(x)
        return [*outputs[:-1], self.bottleneck(x)]


class UMambaDecoder(nn.Module):
    """The decoder's stages, deepest first, each with an upsampling in front; and their heads, largest output first."""

    def __init__(self, num_classes: int, shape: UMambaShape, blocks: Sequence[int], deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.upsamplings, self.stages, self.seg_layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        # The official code of today leaves the skip at full resolution out in two dimensions.
        self.skip_levels = range(0 if shape.january or shape.axes == 3 else 1, len(shape.features) - 1)
        for level, count in zip(reversed(range(len(blocks))), blocks, strict=True):
            channels = shape.features[level]
            self.upsamplings.append(shape.upsampling(level))
            self.stages.append(shape.stage(channels * (1 + (level in self.skip_levels)), level, 1, count))
            self.seg_layers.insert(0, convolution(shape.axes)(channels, num_classes, 1))

    def forward(self, encoder_outputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits, largest first (one, without deep supervision), and the outputs of the stages, full resolution first.
        """
        x, outputs, logits = encoder_outputs[-1], [], []
        levels = reversed(range(len(self.stages)))
        for level, upsampling, stage in zip(levels, self.upsamplings, self.stages, strict=True):
            x = upsampling(x)
            x = stage(torch.cat([x, encoder_outputs[level]], dim=1) if level in self.skip_levels else x)
            outputs.insert(0, x)
            if self.deep_supervision or level == 0:
                logits.insert(0, self.seg_layers[level](x))
        return logits, outputs


class UMamba(Relative):
    """U-Mamba: `(B, input_channels, *sizes)` to raw logits `(B, num_classes, *sizes)`, two or three sizes.

    Most arguments have the names of nnU-Net's plans. The official code was rewritten after the paper; this is
    bowang-lab/U-Mamba at commit 28459e3, and `january` gives the code of the paper's numbers (548f3b2): a stem of one
    convolution, as many blocks in every stage as planned, patch tokens alone, a Mamba layer behind each stage of Enc in
    2D too, transposed convolutions upwards, and the skip at full resolution in 2D too.

    Where a feature map of the planned patch has no more positions than channels, Enc's layer there runs over the
    channels, and its width is the number of positions: such a network takes images of the planned size alone (up to
    the padding to multiples of the strides) and refuses others. All other networks take any size.

    Args:
        input_channels: image channels.
        num_classes: channels of the logits; no softmax or sigmoid is applied.
        features_per_stage: channels of each stage, full resolution first.
        kernel_sizes: of each stage's convolutions.
        strides: of each stage; those of the first are 1.
        n_conv_per_stage: residual blocks of each encoder stage; in its second half 1, unless `january`.
        n_conv_per_stage_decoder: of each decoder stage, deepest first; in its last ones 1, unless `january`.
        patch_size: the planned one.
        everywhere: Mamba layers inside the encoder (U-Mamba Enc); else one behind its last stage (Bot).
        january: the network of January 2024.
        deep_supervision: whether the logits of all decoder stages are returned, largest first; can be switched at
            `decoder.deep_supervision`.
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.

    Raises:
        ValueError: sizes that do not fit together.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        features_per_stage: Sequence[int],
        kernel_sizes: Sequence[Axes],
        strides: Sequence[Axes],
        n_conv_per_stage: Sequence[int],
        n_conv_per_stage_decoder: Sequence[int],
        patch_size: Axes,
        everywhere: bool,
        january: bool = False,
        deep_supervision: bool = False,
        scan_backend: str = "auto",
    ) -> None:
        super().__init__()
        stages = len(features_per_stage)
        if not len(kernel_sizes) == len(strides) == len(n_conv_per_stage) == len(n_conv_per_stage_decoder) + 1 == stages:
            raise ValueError(
                f"features_per_stage {features_per_stage}, kernel_sizes {kernel_sizes}, strides {strides} and "
                f"n_conv_per_stage {n_conv_per_stage} need one entry a stage, n_conv_per_stage_decoder "
                f"{n_conv_per_stage_decoder} one less"
            )
        axes = {len(patch_size), *map(len, kernel_sizes), *map(len, strides)}
        if stages < 2 or axes not in ({2}, {3}) or set(strides[0]) != {1}:
            raise ValueError(
                f"U-Mamba needs two stages or more, the first with strides of 1, and two or three axes everywhere; got "
                f"strides {strides}, kernel_sizes {kernel_sizes}, patch_size {patch_size}"
            )
        self.shape, self.patch_size = UMambaShape(features_per_stage, kernel_sizes, strides, january), tuple(patch_size)
        blocks, decoder_blocks = list(n_conv_per_stage), list(n_conv_per_stage_decoder)
        if not january:
            full = -(-stages // 2)
            blocks[full:] = [1] * len(blocks[full:])
            decoder_blocks[full:] = [1] * len(decoder_blocks[full:])
        layers = self.shape.mamba_layers(patch_size) if everywhere else None
        self.any_size = layers is None or not any(over_channels for _, over_channels in layers.values())
        self.encoder = UMambaEncoder(input_channels, self.shape, blocks, layers, scan_backend)
        self.decoder = UMambaDecoder(num_classes, self.shape, decoder_blocks, deep_supervision)
        self.total_strides = total_strides(strides)
        self.output_strides = self.total_strides[:-1]
        self.apply(_init_weights)

    @property
    def encoder_stages(self) -> tuple[StageInfo, ...]:
        """The encoder's stages behind their Mamba layers, full resolution first."""
        with_mamba = self.encoder.mamba_layers
        names = [
            f"encoder.{'mamba_layers' if str(level) in with_mamba else 'stages'}.{level}"
            for level in range(len(self.shape.features))
        ]
        if not with_mamba:
            names[-1] = "encoder.bottleneck"
        return tuple(map(StageInfo, names, self.shape.features, self.total_strides))

    @property
    def decoder_stages(self) -> tuple[StageInfo, ...]:
        """The decoder's stages, one less than the encoder's, full resolution first."""
        names = [f"decoder.stages.{stage}" for stage in reversed(range(len(self.decoder.stages)))]
        return tuple(map(StageInfo, names, self.shape.features[:-1], self.total_strides[:-1]))

    def _forward_padded(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        planned = [-(-n // s) * s for n, s in zip(self.patch_size, self.total_strides[-1], strict=True)]
        if not self.any_size and list(x.shape[2:]) != planned:
            raise ValueError(
                f"this U-Mamba takes images of the planned size {by(self.patch_size)} alone, got {by(x.shape[2:])}: some "
                "of its Mamba layers run over channels and have one weight a position. Predict larger images in a "
                "sliding window, as nnU-Net does"
            )
        features = self.encoder(x)
        logits, decoded = self.decoder(features)
        return logits, features, decoded


def _init_weights(module: nn.Module) -> None:
    """The U-Net's convolutions as nnU-Net initialises them; Mamba initialises itself."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
