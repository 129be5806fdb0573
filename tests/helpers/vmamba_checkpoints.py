"""Checkpoints with the names and shapes of VMamba's two generations, whose files are too large to keep."""

import math

import torch


def first_generation_shapes(dims, depths, d_state=16, in_chans=3, num_classes=1000):
    """Every key of VMamba's first classifier, as of the file vssmtiny_dp01_ckpt_epoch_292.pth (212 tensors)."""
    shapes = {
        "patch_embed.proj.weight": (dims[0], in_chans, 4, 4),
        "patch_embed.proj.bias": (dims[0],),
        "patch_embed.norm.weight": (dims[0],),
        "patch_embed.norm.bias": (dims[0],),
    }
    for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        inner, rank = 2 * dim, math.ceil(dim / 16)
        for j in range(depth):
            block = f"layers.{i}.blocks.{j}"
            shapes |= {
                f"{block}.ln_1.weight": (dim,),
                f"{block}.ln_1.bias": (dim,),
                f"{block}.self_attention.x_proj_weight": (4, rank + 2 * d_state, inner),
                f"{block}.self_attention.dt_projs_weight": (4, inner, rank),
                f"{block}.self_attention.dt_projs_bias": (4, inner),
                f"{block}.self_attention.A_logs": (4 * inner, d_state),
                f"{block}.self_attention.Ds": (4 * inner,),
                f"{block}.self_attention.in_proj.weight": (2 * inner, dim),
                f"{block}.self_attention.conv2d.weight": (inner, 1, 3, 3),
                f"{block}.self_attention.conv2d.bias": (inner,),
                f"{block}.self_attention.out_norm.weight": (inner,),
                f"{block}.self_attention.out_norm.bias": (inner,),
                f"{block}.self_attention.out_proj.weight": (dim, inner),
            }
        if i < len(dims) - 1:
            shapes |= {
                f"layers.{i}.downsample.reduction.weight": (2 * dim, 4 * dim),
                f"layers.{i}.downsample.norm.weight": (4 * dim,),
                f"layers.{i}.downsample.norm.bias": (4 * dim,),
            }
    return shapes | {
        "norm.weight": (dims[-1],),
        "norm.bias": (dims[-1],),
        "head.weight": (num_classes, dims[-1]),
        "head.bias": (num_classes,),
    }


def second_generation_shapes(dims, depths, num_classes=1000, ratio=2):
    """Every key of VMamba's published second versions: d_state 1, no gate, an MLP, two convolutions for the patches."""
    shapes = {
        "patch_embed.0.weight": (dims[0] // 2, 3, 3, 3),
        "patch_embed.0.bias": (dims[0] // 2,),
        "patch_embed.2.weight": (dims[0] // 2,),
        "patch_embed.2.bias": (dims[0] // 2,),
        "patch_embed.5.weight": (dims[0], dims[0] // 2, 3, 3),
        "patch_embed.5.bias": (dims[0],),
        "patch_embed.7.weight": (dims[0],),
        "patch_embed.7.bias": (dims[0],),
    }
    for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        inner, rank = ratio * dim, math.ceil(dim / 16)
        for j in range(depth):
            block = f"layers.{i}.blocks.{j}"
            shapes |= {
                f"{block}.norm.weight": (dim,),
                f"{block}.norm.bias": (dim,),
                f"{block}.op.x_proj_weight": (4, rank + 2, inner),
                f"{block}.op.Ds": (4 * inner,),
                f"{block}.op.A_logs": (4 * inner, 1),
                f"{block}.op.dt_projs_weight": (4, inner, rank),
                f"{block}.op.dt_projs_bias": (4, inner),
                f"{block}.op.out_norm.weight": (inner,),
                f"{block}.op.out_norm.bias": (inner,),
                f"{block}.op.in_proj.weight": (inner, dim),
                f"{block}.op.conv2d.weight": (inner, 1, 3, 3),
                f"{block}.op.out_proj.weight": (dim, inner),
                f"{block}.norm2.weight": (dim,),
                f"{block}.norm2.bias": (dim,),
                f"{block}.mlp.fc1.weight": (4 * dim, dim),
                f"{block}.mlp.fc1.bias": (4 * dim,),
                f"{block}.mlp.fc2.weight": (dim, 4 * dim),
                f"{block}.mlp.fc2.bias": (dim,),
            }
        if i < len(dims) - 1:
            shapes |= {
                f"layers.{i}.downsample.1.weight": (2 * dim, dim, 3, 3),
                f"layers.{i}.downsample.1.bias": (2 * dim,),
                f"layers.{i}.downsample.3.weight": (2 * dim,),
                f"layers.{i}.downsample.3.bias": (2 * dim,),
            }
    return shapes | {
        "classifier.norm.weight": (dims[-1],),
        "classifier.norm.bias": (dims[-1],),
        "classifier.head.weight": (num_classes, dims[-1]),
        "classifier.head.bias": (num_classes,),
    }


def of_one_value_each(shapes):
    """Tensors of these shapes, each of one random value: in a file they take no room, whatever their size."""
    return {name: torch.randn(1).expand(shape) for name, shape in shapes.items()}


def random_weights(shapes):
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def in_second_generation_names(weights):
    """The first generation's layers under the names that VMamba's later code gives them."""
    changes = (
        ("patch_embed.proj", "patch_embed.0"),
        ("patch_embed.norm", "patch_embed.2"),
        (".ln_1.", ".norm."),
        (".self_attention.", ".op."),
    )
    renamed = {}
    for name, tensor in weights.items():
        for old, new in changes:
            name = name.replace(old, new)
        renamed[f"classifier.{name}" if name.startswith(("norm.", "head.")) else name] = tensor
    return renamed
