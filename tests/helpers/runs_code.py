"""What a pickle must not be allowed to do."""

from collections.abc import Callable
from typing import Any


class RunsCode:
    """In a pickle, it calls a function when it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple]:
        return self.call
