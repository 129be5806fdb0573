"""The graphs of some callers, and how often they have called without one."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from nnunetv2_dsvm.cuda_graphs.recorded_call import GraphMemory, Hold, RecordedCall

MAX_GRAPHS = 4
_MAX_REMEMBERED = 64
_NEVER = -1  # instead of a number of calls: recording has failed


class Shelf:
    """Graphs that share memory, and the calls that may get one; used under the lock of its `CudaGraphs`."""

    def __init__(self, memory: GraphMemory) -> None:
        self.memory = memory
        self.graphs: OrderedDict[Any, RecordedCall] = OrderedDict()
        self.calls: OrderedDict[Any, int] = OrderedDict()
        self.pending: Callable[[], Hold | None] = lambda: None

    def find(self, key: Any) -> RecordedCall | None:
        if key in self.graphs:
            self.graphs.move_to_end(key)
        return self.graphs.get(key)

    def is_due(self, key: Any, calls_before: int) -> bool:
        """Counts a call without a graph; whether it should be recorded instead."""
        calls = self.calls.pop(key, 0)
        due = calls >= calls_before
        self.calls[key] = calls if due or calls == _NEVER else calls + 1
        if len(self.calls) > _MAX_REMEMBERED:
            self.calls.popitem(last=False)
        return due

    def count_again(self) -> None:
        self.calls = OrderedDict((key, _NEVER) for key, calls in self.calls.items() if calls == _NEVER)

    def keep(self, key: Any, graph: RecordedCall) -> None:
        self.graphs[key] = graph
        self.calls.pop(key, None)

    def never_record(self, key: Any) -> None:
        self.calls[key] = _NEVER

    def make_room(self) -> None:
        while len(self.graphs) >= MAX_GRAPHS:
            self.graphs.popitem(last=False)
        if not self.graphs:
            self.memory.renew()


class TrainersShelf(Shelf):
    """That of the one thread, and stream, that calls with autograd."""

    def __init__(self, memory: GraphMemory, thread: threading.Thread, stream: Any) -> None:
        super().__init__(memory)
        self.thread = thread
        self.stream = stream
