"""Golden files of official code in the form in which they lie in `tests/data`: small, and exact.

A tensor `NAME` of fp32 is kept as the halves of its bits, `high/NAME` and, unless it is zero, `low/NAME`; of results
only every so many-th value may be kept, as `every/STEP/NAME`. A file may be in parts, `NAME_1.npz`, `NAME_2.npz`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers.scan_inputs import relative_error


@dataclass(frozen=True)
class GoldenFile:
    """The official arguments, whole tensors, samples with their steps, gradients' norms by official names."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    samples: dict[str, tuple[int, Tensor]]
    grad_norms: dict[str, float]

    @property
    def weights(self) -> dict[str, Tensor]:
        weights = {k.removeprefix("weight/"): v for k, v in self.tensors.items() if k.startswith("weight/")}
        return {k: v.squeeze() if k.endswith("num_batches_tracked") else v for k, v in weights.items()}

    def error(self, name: str, got: Tensor) -> float:
        """Of what a network gives, relative, where the file has values."""
        if name in self.tensors:
            assert got.shape == self.tensors[name].shape
            return relative_error(got, self.tensors[name])
        step, values = self.samples[name]
        return relative_error(got.detach().flatten()[::step], values)


def read_golden(file: Path) -> GoldenFile:
    """The file of this name or its parts."""
    parts = [file] if file.exists() else sorted(file.parent.glob(f"{file.stem}_?.npz"))
    stored: dict[str, np.ndarray] = {}
    for part in parts:
        with np.load(part) as archive:
            stored |= {name: archive[name] for name in archive.files}
    norms = json.loads(str(stored["grad_norms"]))
    config = json.loads(str(stored.get("config", "{}")))
    return GoldenFile(config, dict(_tensors(stored)), dict(_samples(stored)), norms)


def _tensors(stored: dict[str, np.ndarray]) -> Iterator[tuple[str, Tensor]]:
    for name, value in stored.items():
        kind, _, rest = name.partition("/")
        if kind == "high":
            low = stored.get(f"low/{rest}", np.zeros((), np.uint16))
            bits = (value.astype(np.uint32) << 16) | low.astype(np.uint32)
            yield rest, torch.from_numpy(bits.view(np.float32))
        elif kind not in ("low", "every", "grad_norms", "config"):
            yield name, torch.from_numpy(value)


def _samples(stored: dict[str, np.ndarray]) -> Iterator[tuple[str, tuple[int, Tensor]]]:
    for name, value in stored.items():
        if name.startswith("every/"):
            _, step, rest = name.split("/", 2)
            yield rest, (int(step), torch.from_numpy(value))
