"""The probabilities of stochastic depth (arXiv 1603.09382) over the blocks of a network."""

from collections.abc import Sequence


def drop_path_rates(start: float, end: float, depths: Sequence[int]) -> list[list[float]]:
    """Along a line from `start` to `end` over all blocks, for each stage those of its blocks.

    Args:
        start, end: of the first and the last block.
        depths: blocks of each stage, in the order of the line.
    """
    count = sum(depths)
    line = iter([start + (end - start) * i / max(count - 1, 1) for i in range(count)])
    return [[next(line) for _ in range(depth)] for depth in depths]
