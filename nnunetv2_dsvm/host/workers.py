"""The same work on many files: several at a time, with a progress bar."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_with_progress(
    function: Callable[[Item], Result], items: Sequence[Item], *, description: str, workers: int
) -> list[Result]:
    """`function` of each item, in the items' order. The first exception ends it: what has not begun is not done."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in tqdm(futures, desc=description, unit="case")]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
