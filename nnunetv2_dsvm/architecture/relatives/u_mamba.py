"""U-Mamba (arXiv 2401.04722): nnU-Net's residual U-Net with Mamba over its flattened feature maps, in 2D and 3D."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nnunetv2_dsvm.architecture.blocks.checkpointed_blocks import recompute_parts
from nnunetv2_dsvm.architecture.blocks.convolution import convolution
from nnunetv2_dsvm.architecture.blocks.resampling import pad_to_multiple
from nnunetv2_dsvm.architecture.blocks.residual_conv import ConvNorm, LeakyReLU
from nnunetv2_dsvm.architecture.relatives.u_mamba_stages import MambaLayer, UMambaShape
from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork, check_heads
from nnunetv2_dsvm.architecture.stage_info import Axes, FeaturesOutput, StageInfo, total_strides
from nnunetv2_dsvm.files.text import by


class UMambaEncoder(nn.Module):
    """The stem, the stages, the Mamba layers behind some of them, by the stage's number, and one behind all (Bot)."""

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
            else shape.stage(input_channels, 0, shape.strides[0], blocks[0])
        )
        before = [shape.features[0], *shape.features]
        self.stages = nn.ModuleList(
            shape.stage(before[level], level, stride, blocks[level]) for level, stride in enumerate(shape.strides)
        )
        self.mamba_layers = nn.ModuleDict(
            {str(level): MambaLayer(*layer, scan_backend) for level, layer in (mamba_layers or {}).items()}
        )
        self.bottleneck = MambaLayer(shape.features[-1], False, scan_backend) if mamba_layers is None else nn.Identity()

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

    def __init__(
        self, num_classes: int, shape: UMambaShape, blocks: Sequence[int], heads: int, deep_supervision: bool
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.upsamplings, self.stages = nn.ModuleList(), nn.ModuleList()
        # The official code of today leaves the skip at full resolution out in two dimensions.
        self.skip_levels = range(0 if shape.january or shape.axes == 3 else 1, len(shape.features) - 1)
        for level, count in zip(reversed(range(len(blocks))), blocks, strict=True):
            channels = shape.features[level]
            self.upsamplings.append(shape.upsampling(level))
            self.stages.append(
                shape.stage(channels * (1 + (level in self.skip_levels)), level, (1,) * shape.axes, count)
            )
        self.seg_layers = nn.ModuleList(
            convolution(shape.axes)(channels, num_classes, 1) for channels in shape.features[:heads]
        )

    def forward(self, encoder_outputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits, largest first (one, without deep supervision), and the stages' outputs, full resolution first."""
        x = encoder_outputs[-1]
        outputs: list[Tensor] = []
        levels = reversed(range(len(self.stages)))
        for level, upsampling, stage in zip(levels, self.upsamplings, self.stages, strict=True):
            x = upsampling(x)
            x = stage(torch.cat([x, encoder_outputs[level]], dim=1) if level in self.skip_levels else x)
            outputs.insert(0, x)
        heads = self.seg_layers if self.deep_supervision else self.seg_layers[:1]
        return [head(x) for head, x in zip(heads, outputs, strict=False)], outputs


class UMamba(SegmentationNetwork):
    """U-Mamba: `(B, input_channels, *sizes)` to raw logits `(B, num_classes, *sizes)`, two or three sizes.

    The arguments have the names of nnU-Net's plans. The official code was rewritten after the paper; this is
    bowang-lab/U-Mamba at commit 28459e3, and `january` gives the code of the paper's numbers (548f3b2): a stem of one
    convolution, as many blocks in every stage as planned, patch tokens alone, a Mamba layer behind each stage of Enc in
    2D too, transposed convolutions upwards, and the skip at full resolution in 2D too.

    Args:
        input_channels: image channels.
        num_classes: channels of the logits; no softmax or sigmoid is applied.
        features_per_stage: channels of each stage, full resolution first.
        kernel_sizes: of each stage's convolutions.
        strides: of each stage; those of the first are 1.
        n_conv_per_stage: residual blocks of each encoder stage; in its second half 1, unless `january`.
        n_conv_per_stage_decoder: of each decoder stage, deepest first; in its last ones 1, unless `january`.
        patch_size: the planned one; only `UMambaEnc` needs it.
        january: the network of January 2024.
        deep_supervision: whether the logits of all decoder stages are returned, largest first; can be switched at
            `decoder.deep_supervision`.
        auxiliary_heads: whether all their heads exist, as they do in nnU-Net's networks.
        gradient_checkpointing: recompute each scan in backward, for less memory and more time.
        scan_backend: `"auto"` or a name of `nnunetv2_dsvm.ops.BACKEND_NAMES`.

    Raises:
        ValueError: sizes that do not fit together.
    """

    everywhere: bool  # Mamba layers inside the encoder, or one behind it
    encoder: UMambaEncoder
    decoder: UMambaDecoder

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
        patch_size: Axes | None = None,
        january: bool = False,
        deep_supervision: bool = False,
        auxiliary_heads: bool = True,
        gradient_checkpointing: bool = False,
        scan_backend: str = "auto",
    ) -> None:
        super().__init__(input_channels, num_classes, axes=len(strides[0]))
        shape = UMambaShape(features_per_stage, kernel_sizes, strides, january)
        blocks, decoder_blocks = _blocks(shape, n_conv_per_stage, n_conv_per_stage_decoder)
        if self.everywhere and (patch_size is None or len(patch_size) != self.axes):
            raise ValueError(f"patch_size must be the planned one, of {self.axes} axes, got {patch_size}")
        layers = shape.mamba_layers(patch_size) if self.everywhere and patch_size is not None else None
        over_channels = layers is not None and any(of_channels for _, of_channels in layers.values())
        self.only_size = tuple(patch_size) if over_channels and patch_size is not None else None
        self.features, self.total_strides = tuple(features_per_stage), total_strides(strides)
        self.encoder = UMambaEncoder(input_channels, shape, blocks, layers, scan_backend)
        heads = len(decoder_blocks) if check_heads(deep_supervision, auxiliary_heads) else 1
        self.decoder = UMambaDecoder(num_classes, shape, decoder_blocks, heads, deep_supervision)
        self.stride, self.output_strides = max(self.total_strides[-1]), self.total_strides[:-1]
        self.apply(_init_weights)
        recompute_parts(self, gradient_checkpointing)

    @property
    def encoder_stages(self) -> tuple[StageInfo, ...]:
        """The encoder's stages, behind their Mamba layers."""
        names = [f"encoder.stages.{level}" for level in range(len(self.features))]
        for level in self.encoder.mamba_layers:
            names[int(level)] = f"encoder.mamba_layers.{level}"
        if not self.everywhere:
            names[-1] = "encoder.bottleneck"
        return tuple(map(StageInfo, names, self.features, self.total_strides))

    @property
    def decoder_stages(self) -> tuple[StageInfo, ...]:
        """The decoder's stages, one less than the encoder's."""
        names = [f"decoder.stages.{stage}" for stage in reversed(range(len(self.decoder.stages)))]
        return tuple(map(StageInfo, names, self.features[:-1], self.total_strides[:-1]))

    def run(self, x: Tensor) -> FeaturesOutput:
        sizes, stride = x.shape[2:], self.total_strides[-1]
        if self.only_size and _rounded_up(sizes, stride) != _rounded_up(self.only_size, stride):
            raise ValueError(
                f"this U-Mamba takes images of the planned size {by(self.only_size)} alone, got {by(sizes)}: some of "
                "its Mamba layers run over channels, with a weight for every position. Predict larger images in a "
                "sliding window, as nnU-Net does"
            )
        features = self.encoder(pad_to_multiple(x, stride))
        logits, decoded = self.decoder(features)
        return FeaturesOutput(logits, tuple(features), tuple(decoded))


class UMambaBot(UMamba):
    """U-Mamba Bot: one Mamba layer, over the positions behind the encoder's last stage. Images of any size."""

    everywhere = False


class UMambaEnc(UMamba):
    """U-Mamba Enc: Mamba layers behind the encoder's stages, in 2D behind every second one, the last included.

    Where a feature map of the planned patch has no more positions than channels, the layer runs over the channels, and
    its width is the number of positions. Such a network takes images of the planned size alone, up to the padding to
    multiples of the strides, and refuses others.
    """

    everywhere = True


def _blocks(shape: UMambaShape, encoder: Sequence[int], decoder: Sequence[int]) -> tuple[list[int], list[int]]:
    """How many residual blocks each stage has; ValueError where the stages do not fit together."""
    stages = len(shape.features)
    entries = [len(each) for each in (shape.kernels, shape.strides, encoder)]
    if stages < 2 or entries != [stages] * 3 or len(decoder) != stages - 1:
        raise ValueError(
            f"features_per_stage {shape.features}, kernel_sizes {shape.kernels}, strides {shape.strides} and "
            f"n_conv_per_stage {encoder} need one entry a stage, two or more, and n_conv_per_stage_decoder {decoder} "
            "one less"
        )
    axes = {len(each) for each in (*shape.kernels, *shape.strides)}
    if axes not in ({2}, {3}) or set(shape.strides[0]) != {1}:
        raise ValueError(
            f"kernel_sizes {shape.kernels} and strides {shape.strides} must all have two numbers or all three, and the "
            "first strides be 1"
        )
    full = stages if shape.january else -(-stages // 2)
    return (
        [count if stage < full else 1 for stage, count in enumerate(encoder)],
        [count if stage < full else 1 for stage, count in enumerate(decoder)],
    )


def _rounded_up(sizes: Axes, multiples: Axes) -> list[int]:
    return [-(-size // multiple) for size, multiple in zip(sizes, multiples, strict=True)]


def _init_weights(module: nn.Module) -> None:
    """The U-Net's convolutions as nnU-Net initialises them; Mamba initialises itself."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
