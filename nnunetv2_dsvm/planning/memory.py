"""How much GPU memory a training takes, from measured coefficients.

Measured: trainings of nnUNetTrainerDSVM by nnU-Net's own steps on an H200 (torch 2.11, Triton 3.6), of images and
volumes, of four sizes of network, in bf16 and fp16; see NOTES.md for which of them the coefficients were fitted to, how
well they meet the others, and what is known from earlier kernels. For the fused GPU kernels: plain PyTorch and
mamba-ssm need more. Of volumes three plans' strides were measured, of images none but the published ones: the margin of
other strides is larger, and so is that of convolutional stages (`fine_channels`), which were measured in four trainings
that fill no GPU. A network without its scan was not measured either, and is estimated as the one with it, parameters
apart.
"""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from operator import mul
from typing import Any, Literal

import torch

from nnunetv2_dsvm.architecture.blocks.stem import fine_widths, halvings
from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.architecture.vm_unet_sizes import VMUNetSizes
from nnunetv2_dsvm.distillation import DualSelfDistillation
from nnunetv2_dsvm.ops.backend import SAVED_STATES_INTERVAL

Precision = Literal["bfloat16", "float16"]

GIGABYTE = 10**9
CUDA_CONTEXT = 0.95 * GIGABYTE  # what CUDA takes beside torch's own memory; 0.93 measured
# Trainings that were not fitted took 0.95 to 1.02 of what the coefficients give, of volumes with strides that were not
# among the fitted ones up to 1.08.
_MARGIN, _MARGIN_OTHER = 1.06, 1.10
# Bytes. Of every training, and per parameter: weights, gradients and their copies, AdamW's two moments, 16-bit weights.
_ALWAYS, _PER_PARAMETER = 0.2e9, 24.97
# Per element, batch included: of the states that backward starts from; of the tokens of each block; of the full-size
# channels, C/4, that the last expanding makes; of the logits; and of the largest stage's tokens in all directions,
# which backward has once. The first is what the kernels allocate. In the place of the full-size channels: of what the
# convolutional stages of `fine_channels` give, encoder and decoder together, and of the tokens that they end in.
_PER_STATE, _PER_BLOCK_ELEMENT, _PER_FULL_SIZE_CHANNEL, _PER_LOGIT, _PER_PROJECTED = 4.0, 25.30, 6.635, 51.72, 13.59
_PER_FINE_ELEMENT, _PER_FINE_TOKEN_ELEMENT = 43.5, 10.0
# In fp16 Triton's kernels run the scan, with larger tensors between them than bf16's.
_FP16_PER_BLOCK_ELEMENT, _FP16_PER_PROJECTED = 7.455, 10.27


def training_memory(
    patch_size: Sequence[int],
    batch_size: int,
    sizes: VMUNetSizes,
    *,
    input_channels: int,
    num_classes: int,
    precision: Precision = "bfloat16",
) -> float:
    """Bytes of GPU memory that a training of nnUNetTrainerDSVM takes, CUDA's own included; rather more than less.

    Args:
        patch_size: along each axis, in pixels or voxels.
        batch_size: images.
        sizes: of the network, of as many dimensions as the patch.
        input_channels: of the images.
        num_classes: of the logits.
        precision: of autocast.
    """
    dims, d_state, strides = sizes.dims, sizes.d_state, sizes.stage_strides
    padded = [math.ceil(size / stride) * stride for size, stride in zip(patch_size, strides[-1], strict=True)]
    pixels, directions = math.prod(padded), 2 * sizes.axes
    tokens = [pixels // math.prod(stride) for stride in strides]
    blocks = [down + up for down, up in zip(sizes.encoder_depths, reversed(sizes.decoder_depths), strict=True)]

    in_blocks = sum(count * dim * n for count, dim, n in zip(tokens, dims, blocks, strict=True))
    states = sum(
        math.ceil(count / SAVED_STATES_INTERVAL) * directions * d_state * 2 * dim * n
        for count, dim, n in zip(tokens, dims, blocks, strict=True)
    )
    projected = tokens[0] * directions * (2 * dims[0] + 2 * d_state)
    full_size = _PER_FULL_SIZE_CHANNEL * (pixels * dims[0] // 4)
    if sizes.fine_channels:
        fine = _PER_FINE_ELEMENT * _fine_elements(pixels, sizes) + _PER_FINE_TOKEN_ELEMENT * tokens[0] * dims[0]
        full_size = max(full_size, fine)
    per_image = (
        _PER_STATE * states
        + _PER_BLOCK_ELEMENT * in_blocks
        + full_size
        + _PER_LOGIT * pixels * num_classes
        + _PER_PROJECTED * projected
    )
    if precision == "float16":
        per_image += _FP16_PER_BLOCK_ELEMENT * in_blocks + _FP16_PER_PROJECTED * projected
    parameters = _parameters(input_channels, num_classes, sizes)
    margin = _MARGIN_OTHER if "strides" in sizes or sizes.fine_channels else _MARGIN
    return margin * (_ALWAYS + _PER_PARAMETER * parameters + batch_size * per_image) + CUDA_CONTEXT


def largest_batch(target: float, patch_size: Sequence[int], sizes: VMUNetSizes, **images_and_precision: Any) -> int:
    """How many images of this patch size fit into `target` bytes; 0 where none does. Options: of `training_memory`."""
    needed = [training_memory(patch_size, batch, sizes, **images_and_precision) for batch in (1, 2)]
    return max(0, int((target - needed[0]) / (needed[1] - needed[0]) + 1))  # the estimate is a line in the batch


def _fine_elements(pixels: int, sizes: VMUNetSizes) -> int:
    """Of the outputs of `FineEncoder`'s stages."""
    steps = halvings(sizes.strides[1])
    strides = itertools.accumulate(map(math.prod, steps[:-1]), mul, initial=1)
    return sum(
        width * pixels // stride for width, stride in zip(fine_widths(sizes.fine_channels, steps), strides, strict=True)
    )


@lru_cache  # a planner asks for every patch that it tries
def _parameters(input_channels: int, num_classes: int, sizes: VMUNetSizes) -> int:
    """Of the network and of the distillation's projections."""
    with torch.device("meta"):
        network = VMUNet(input_channels, num_classes, **sizes)
        modules = network, DualSelfDistillation.from_stages(network.encoder_stages, network.decoder_stages)
    return sum(p.numel() for module in modules for p in module.parameters())
