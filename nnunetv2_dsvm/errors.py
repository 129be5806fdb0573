"""Errors that are meant for a person at the command line: their sentence is shown, not a traceback."""

from collections.abc import Iterable
from os import PathLike


class Refusal(Exception):
    """Marks an error whose message says what was wrong and what to do; mixed into the kind that a caller may catch."""


class UserError(Refusal, RuntimeError):
    """Something the person at the command line can put right; the message says what was wrong and what to do."""


class UserValueError(Refusal, ValueError):
    """The same, of a value: nnU-Net takes a RuntimeError of the network for a lack of memory, and goes on."""


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raises UserError unless an argument has one of the values that it can have."""
    if value not in (choices := list(choices)):
        raise UserError(f"unknown {name} {value!r}: choose one of {', '.join(choices)}")


def check_several(name: str, values: object) -> None:
    """Raises UserError where an argument for several values is one of them, whose letters would count, or empty."""
    if isinstance(values, (str, PathLike)):
        raise UserError(f"{name} takes several, in a list: [{str(values)!r}] instead of {str(values)!r}")
    if not values:
        raise UserError(f"{name} names nothing: give one or more, in a list")
