"""What a training took, from its checkpoint: parameters of the network, seconds of its epochs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

STARTS, ENDS = "epoch_start_timestamps", "epoch_end_timestamps"  # of nnU-Net's logger
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # of normalisation layers: not trained


def number_of_parameters(weights: Any) -> int | None:
    """Of a network, by the weights in its checkpoint; None where these are none.

    nnU-Net's decoders hold the encoder once more, under other names and in the same memory: it counts once.
    """
    if not isinstance(weights, Mapping):
        return None
    sizes = {}
    for name, tensor in weights.items():
        if hasattr(tensor, "untyped_storage") and name.rpartition(".")[2] not in BUFFERS:
            sizes[tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape] = tensor.numel()
    return sum(sizes.values()) or None


def epoch_seconds(logged: Mapping[str, Sequence[float]]) -> list[float]:
    """Of each epoch that nnU-Net's logger has seen end: training and its validation, without breaks between epochs."""
    times = zip(logged.get(STARTS, ()), logged.get(ENDS, ()), strict=False)
    spans = [float(end) - float(start) for start, end in times]
    return [seconds for seconds in spans if math.isfinite(seconds) and seconds >= 0]


def shown_duration(seconds: float) -> str:
    """With its two largest units."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"
