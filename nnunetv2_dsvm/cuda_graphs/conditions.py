"""Which calls a CUDA graph can stand for, and what a graph depends on."""

import os
from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import _get_current_dispatch_mode

VARIABLE = "NNUNETV2_DSVM_CUDA_GRAPHS"
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def turned_off() -> bool:
    """Whether there are no graphs at all: on AMD's GPUs, and where the variable says so."""
    return torch.version.hip is not None or os.environ.get(VARIABLE, "1") == "0"


def watched() -> bool:
    """Whether something has to see the single operations."""
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
        or _get_current_dispatch_mode() is not None
        or torch.is_anomaly_enabled()
        or torch.jit.is_tracing()
        or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
    )


def state_key(root: nn.Module, inputs: Sequence[Tensor], originals: Mapping[int, int]) -> Hashable | None:
    """What a graph of a call depends on: calls with equal keys run the same kernels on the same memory.

    Args:
        root: the module that is called.
        inputs: the tensors it is called with; their sizes, strides, types and device count.
        originals: for the id of a parameter's leaf that of the parameter, of a module on other leaves.

    Returns:
        Inputs, modes of torch, and of all modules within the root their modes and the places of their parameters and
        buffers; None where a module has to see every call.
    """
    parts: list[Hashable] = []
    grad = torch.is_grad_enabled()
    modules: list[nn.Module | None] = [root]
    seen: set[int] = set()
    while modules:  # instead of root.modules(), whose nested generators take longer than the rest
        module = modules.pop()
        if module is None or id(module) in seen:
            continue
        seen.add(id(module))
        # Not by attribute: a module looks in three places before it says that it has none, and this runs in every call.
        own = module.__dict__
        modules += own["_modules"].values()
        replica = own.get("_is_replica")  # nn.DataParallel's, whose weights are another copy in every call
        if (
            replica
            or any(own[hooks] for hooks in HOOKS)
            or (grad and own["training"] and own.get("gradient_checkpointing"))
        ):
            return None
        parts += (own["training"], own.get("return_features"), own.get("deep_supervision"))
        for tensors in (own["_parameters"], own["_buffers"]):
            for t in tensors.values():
                if t is not None:
                    parts.append((originals.get(id(t), id(t)), t.data_ptr(), t.dtype, t.requires_grad))
    device = inputs[0].device.type
    modes = (
        torch.is_grad_enabled(),
        torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
    )
    return tuple((x.shape, x.stride(), x.dtype, x.device) for x in inputs), modes, tuple(parts)
