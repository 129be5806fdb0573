"""What the kernels in CUDA C++ are given: tensors that they can read, and the structs of their sources."""

import ctypes
from functools import lru_cache

import torch
from torch import Tensor

_FIELDS = {
    "scan_forward": (
        "x delta b c a initial_state bias y saved_states",
        "stride_x stride_delta stride_b stride_bk",
        "chunks chunk_intervals intervals",
    ),
    "scan_backward": (
        "gy x delta b c saved_states a final_dh bias gx gdt gb gc ga gbias",
        "stride_gy stride_x stride_delta stride_b stride_bk stride_gdt stride_gb stride_gbk",
        "chunks chunk_intervals intervals batch",
    ),
    "scan_chunks": (
        "v delta w a bias ends time",
        "stride_v stride_delta stride_w stride_wk",
        "chunks chunk_intervals intervals",
    ),
}


@lru_cache(maxsize=16)
def arguments(name: str, numbers: int) -> type[ctypes.Structure]:
    """`Arguments` in the source `name`, with so many numbers of the grid."""
    pointers, strides, last = (fields.split() for fields in _FIELDS[name])
    kinds: list[tuple[str, type]] = [(field, ctypes.c_void_p) for field in pointers]
    kinds += [(field, ctypes.c_longlong) for field in strides]
    kinds += [("length", ctypes.c_int), ("channels", ctypes.c_int), ("grid", ctypes.c_int * numbers)]
    return type("Arguments", (ctypes.Structure,), {"_fields_": kinds + [(field, ctypes.c_int) for field in last]})


class EntryArguments(ctypes.Structure):
    """As in `scan_chunks.cu`."""

    _fields_ = [(f, ctypes.c_void_p) for f in ("ends", "time", "a", "entering")] + [
        (f, ctypes.c_int) for f in ("channels", "chunks")
    ]


def addresses(*tensors: Tensor | None) -> tuple[int | None, ...]:
    """Null for None."""
    return tuple(None if t is None else t.data_ptr() for t in tensors)


def aligned(t: Tensor) -> Tensor:
    """`t`, or a copy where the kernels' loads of 16 bytes could not read it."""
    whole = t.data_ptr() % 16 == 0 and all(stride % 8 == 0 for stride in t.stride()[:-1])
    return t if whole else t.clone(memory_format=torch.contiguous_format)


def all_aligned(x: Tensor, delta: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same of all, B and C with the same strides."""
    x, delta, B, C = (aligned(t) for t in (x, delta, B, C))
    if B.stride() != C.stride():
        B, C = B.contiguous(), C.contiguous()
    return x, delta, B, C
