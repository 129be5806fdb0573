"""How a launch of the scan's kernels deals channels, states and tokens to programs."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nnunetv2_dsvm.ops.backend import SAVED_STATES_INTERVAL
from nnunetv2_dsvm.ops.scan_inputs import ScanShape, token_strides
from nnunetv2_dsvm.ops.scan_order import axis_orders
from nnunetv2_dsvm.ops.triton.runtime import device_numbers, next_power_of_2

MAX_D_STATE = 64
ONE_STATE_CHANNELS = 32  # of a program of the kernels for one state: a lane's loads of a token fill sectors
MAX_AXES = 3  # of the grids that the kernels walk through


class LaunchSettings(NamedTuple):
    """What launches aim at; other numbers make small tensors go the ways of large ones."""

    interval: int = SAVED_STATES_INTERVAL  # tokens between saved states
    # Programs are of one warp, an NVIDIA multiprocessor has four schedulers, registers allow two or three on each.
    busy: int = 8  # programs per multiprocessor
    full: int = 16  # so many, where chunks have to be made, that the last ones to end do not matter
    convolution_rows: int = 4  # the least of a program, which also loads the k - 1 rows around them and the weights
    processors: int | None = None  # multiprocessors; None: as many as the GPU has

    def processors_of(self, device: torch.device) -> int:
        """Multiprocessors to deal programs to."""
        return device_numbers(device)[0] if self.processors is None else self.processors


class Tile(NamedTuple):
    """How a warp tiles channels x states (see `kernels/tiles.py`), and the tokens it loads at once."""

    T: int
    LD: int
    LN: int
    SD: int
    SN: int

    @property
    def channels(self) -> int:
        """Of a program."""
        return self.LD * self.SD


def scan_tile(d_state: int, warp: int) -> Tile:
    """Nearly square in registers, because backward sums over states and over channels."""
    states = next_power_of_2(d_state)
    ln = max(min(4, states), states // 16)
    sn = states // ln
    return Tile(T=4, LD=warp // ln, LN=ln, SD=max(1, min(4, 16 // sn)), SN=sn)


class OneStateTile(NamedTuple):
    """How a program of the kernels for one state takes tokens (see `kernels/scan_one_state.py`)."""

    T: int  # tokens of a row, one after the other in registers
    W: int  # rows
    BLOCK_D: int  # channels
    warps: int


class LaunchPlan(NamedTuple):
    """A call on a device. The scan's tensors are read in place, through their strides over tokens and directions."""

    shape: ScanShape
    device: torch.device
    settings: LaunchSettings

    @property
    def intervals(self) -> int:
        """States saved of a direction of an image."""
        return math.ceil(self.shape.visited / self.settings.interval)

    @property
    def processors(self) -> int:
        """Multiprocessors."""
        return self.settings.processors_of(self.device)

    def tile(self) -> Tile:
        """`scan_tile` for the device."""
        return scan_tile(self.shape.d_state, device_numbers(self.device)[1])

    def programs(self, tile: Tile) -> int:
        """Of a launch in one chunk."""
        return self.shape.batch * self.shape.directions * math.ceil(self.shape.d_inner / tile.channels)

    def forward_tile(self) -> Tile:
        """`tile`, halved where there are too few programs to keep the GPU busy and no chunks are made."""
        tile = self.tile()
        if self.chunks(tile)[0] == 1 and self.programs(tile) < self.processors * self.settings.busy:
            return tile._replace(T=2 * tile.T, SD=max(1, tile.SD // 2))
        return tile

    def one_state_tile(self) -> OneStateTile:
        """The tokens between saved states, a power of 2, at two channels a lane."""
        tokens = max(1, min(8, self.settings.interval // 4))
        rows, channels = self.settings.interval // tokens, min(ONE_STATE_CHANNELS, next_power_of_2(self.shape.d_inner))
        return OneStateTile(tokens, rows, channels, max(1, rows * channels // (2 * device_numbers(self.device)[1])))

    def one_state_constants(self, tile: OneStateTile, *by_channel: Tensor) -> dict[str, Any]:
        """What the kernels for one state are specialised on; the tensors are those of x's channels."""
        tokens, channels = tile.T * tile.W, self.shape.d_inner
        return {
            "EVEN_L": self.shape.visited % tokens == 0,
            "EVEN_D": channels % tile.BLOCK_D == 0,
            "UNIT": math.gcd(8, channels, *token_strides(*by_channel)),
            "num_warps": tile.warps,
            "T": tile.T,
            "W": tile.W,
            "BLOCK_D": tile.BLOCK_D,
            **self._walks(tile.T),
        }

    def chunks(self, tile: Tile) -> tuple[int, int]:
        """(chunks of an image, tokens of a chunk): as many as fill the GPU, a whole number of intervals each."""
        programs = self.programs(tile)
        wanted = self.processors * self.settings.full
        # The second pass over the tokens costs about half the first: a gain from three times the programs on.
        chunks = min(math.ceil(wanted / programs), self.intervals) if programs * 3 <= wanted else 1
        length = math.ceil(self.intervals / max(1, chunks)) * self.settings.interval
        return math.ceil(self.shape.visited / length), length

    def constants(self, tile: Tile, by_channel: Sequence[Tensor], by_state: Sequence[Tensor]) -> dict[str, Any]:
        """What the kernels are specialised on; the tensors are those loaded token by token."""
        channels, d_state = self.shape.d_inner, self.shape.d_state
        widest = max(t.element_size() for t in (*by_channel, *by_state))
        return {
            "VECTOR": widest * max(tile.SD, tile.SN) <= 16,
            "PACKED": _even(by_channel, channels, tile.SD),
            "PACKED_STATES": _even(by_state, d_state, tile.SN),
            "EVEN_L": self.shape.visited % tile.T == 0,
            "EVEN_D": channels % tile.channels == 0,
            "EVEN_N": d_state == tile.LN * tile.SN,
            **self._walks(tile.T),
        }

    def _walks(self, tokens: int) -> dict[str, Any]:
        """Of `kernels/walk.py`, so many tokens at once."""
        shape = self.shape
        fastest = {order.axes[-1] for order in shape.orders or axis_orders(len(shape.sizes))}
        return {
            "STRAIGHT": all(shape.sizes[axis] // shape.step % tokens == 0 for axis in fastest),
            "WIDE": shape.length * shape.directions * (shape.d_inner + 2 * shape.d_state) >= 2**31,
            "ORDERS": order_numbers(shape),
            "STEP": shape.step,
            "K": shape.directions,
        }


def grid_arguments(shape: ScanShape) -> tuple[int, int, int | None]:
    """(height, width, depth), as the kernels take them; no depth for an image in its four directions."""
    depth, height, width = (1,) * (MAX_AXES - len(shape.sizes)) + shape.sizes
    return height, width, None if order_numbers(shape) is None else depth


def order_numbers(shape: ScanShape) -> tuple[int, ...] | None:
    """The walks through a grid of three axes, seven numbers each: the axes, slowest first, reversal, the phase.

    None for an image in its four directions, which the kernels know. Axes that the grid lacks have one token.
    """
    if len(shape.sizes) == 2 and shape.orders is None:
        return None
    lacking = MAX_AXES - len(shape.sizes)
    numbers: list[int] = []
    for order in shape.orders or axis_orders(len(shape.sizes)):
        numbers += (*range(lacking), *(lacking + axis for axis in order.axes), int(order.reverse))
        numbers += (0,) * lacking + (order.phase or (0,) * len(shape.sizes))
    return tuple(numbers)


def _even(tensors: Sequence[Tensor], *sizes: int) -> bool:
    """Whether their 16-bit values may be read as words of two."""
    return all(n % 2 == 0 for t in tensors for n in (t.storage_offset(), *t.stride()[:-1], *sizes))
