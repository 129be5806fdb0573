"""How much GPU memory a training takes, from measured coefficients.

Fitted to 41 trainings of nnUNetTrainerDSVM by nnU-Net's own steps on an H200 (torch 2.11, Triton 3.6): patches from
64x64 to 1024x1024, batches from 2 to 283, six sizes of network, bf16 and fp16; see NOTES.md. For the fused GPU kernels:
plain PyTorch and mamba-ssm need more. For volumes, and for images with other strides than the published ones, the same
coefficients are taken with their sizes: no such training was measured, which is why their margin is larger. A network
without its scan was not measured either, and is estimated as the one with it, parameters apart.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import torch

from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.architecture.vm_unet_sizes import VMUNetSizes
from nnunetv2_dsvm.distillation import DualSelfDistillation
from nnunetv2_dsvm.ops.backend import SAVED_STATES_INTERVAL

Precision = Literal["bfloat16", "float16"]

GIGABYTE = 10**9
CUDA_CONTEXT = 0.95 * GIGABYTE  # what CUDA takes beside torch's own memory; 0.92 measured
# Over the fit, whose errors are -7 to +4 percent; and where only its coefficients are known.
_MARGIN, _MARGIN_UNMEASURED = 1.06, 1.15
# Bytes. Of every training, and per parameter: weights, gradients and their copies, AdamW's two moments, 16-bit weights.
_ALWAYS, _PER_PARAMETER = 0.2e9, 24.97
# Per element, batch included: of the states that a block keeps, for it and for what is as large; of the stages'
# features; of the logits; and of what the largest stage's backward needs once, in the widest tensor of all directions.
_PER_KEPT_STATE, _PER_FEATURE, _PER_LOGIT, _PER_PROJECTED = 14.35, 79.23, 51.72, 5.952
_PER_DEEPEST_CHANNEL = 10440.0  # and image: partial sums of gradients, which small images do not fill
# Of the last expanding's full-size channels, C/4, two 16-bit tensors are kept and backward makes three of their size.
# Of published strides they are four times the first stage's features, which the fit counts there; in 3D up to sixteen
# times, of images with a patch embedding of 2×2 as many.
_PER_FULL_SIZE_CHANNEL = 10.0
# In fp16 the distillation computes in fp32, in bf16 it does not.
_FP16_PER_FEATURE, _FP16_PER_BLOCK_ELEMENT = 25.19, 7.284


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

    features = sum(count * dim for count, dim in zip(tokens, dims, strict=True))
    in_blocks = sum(count * dim * n for count, dim, n in zip(tokens, dims, blocks, strict=True))
    states = sum(
        math.ceil(count / SAVED_STATES_INTERVAL) * directions * d_state * 2 * dim * n
        for count, dim, n in zip(tokens, dims, blocks, strict=True)
    )
    projected = tokens[0] * directions * (2 * dims[0] + 2 * d_state)
    per_image = (
        _PER_KEPT_STATE * states
        + _PER_FEATURE * features
        + _PER_FULL_SIZE_CHANNEL * (pixels * dims[0] // 4 - 4 * tokens[0] * dims[0])
        + _PER_LOGIT * pixels * num_classes
        + _PER_PROJECTED * projected
        + _PER_DEEPEST_CHANNEL * dims[-1]
    )
    if precision == "float16":
        per_image += _FP16_PER_FEATURE * features + _FP16_PER_BLOCK_ELEMENT * in_blocks
    parameters = _parameters(input_channels, num_classes, sizes)
    margin = _MARGIN_UNMEASURED if "strides" in sizes else _MARGIN
    return margin * (_ALWAYS + _PER_PARAMETER * parameters + batch_size * per_image) + CUDA_CONTEXT


def largest_batch(target: float, patch_size: Sequence[int], sizes: VMUNetSizes, **images_and_precision: Any) -> int:
    """How many images of this patch size fit into `target` bytes; 0 where none does. Options: of `training_memory`."""
    needed = [training_memory(patch_size, batch, sizes, **images_and_precision) for batch in (1, 2)]
    return max(0, int((target - needed[0]) / (needed[1] - needed[0]) + 1))  # the estimate is a line in the batch


@lru_cache  # a planner asks for every patch that it tries
def _parameters(input_channels: int, num_classes: int, sizes: VMUNetSizes) -> int:
    """Of the network and of the distillation's projections."""
    with torch.device("meta"):
        network = VMUNet(input_channels, num_classes, **sizes)
        modules = network, DualSelfDistillation.from_stages(network.encoder_stages, network.decoder_stages)
    return sum(p.numel() for module in modules for p in module.parameters())
