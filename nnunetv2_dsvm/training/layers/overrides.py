"""Which overrides of the classes that are mixed in reach what they override, and which are never reached themselves."""

import inspect
from collections.abc import Callable, Iterator
from types import CellType, CodeType
from typing import Any


def cuts_off(trainer: type, base: type, hook: str, spared: Callable[[type], bool]) -> type | None:
    """The class in front of `base` whose `hook` calls none of those that it overrides; one that does nothing may.

    Args:
        trainer: the class.
        base: the last class that has to be reached.
        hook: the name of the method.
        spared: classes that are not looked at.
    """
    front = trainer.__mro__[: trainer.__mro__.index(base) + 1]
    calls = {"super", *(c.__name__ for c in front)}
    for owner in front[:-1]:
        if hook in vars(owner) and not spared(owner):
            named = names_in(owner, hook).values()
            if any(named) and not any(hook in names and names & calls for names in named):
                return owner
    return None


def hidden_behind(trainer: type, nnunets: type, is_layer: Callable[[type], bool]) -> Iterator[tuple[type, str, type]]:
    """What a class states in vain: the class, the name, and the class in front of it that hides it.

    Values behind a layer that states another; and whatever stands behind nnU-Net's trainer, which calls no `super()`.
    A class that one in front calls by its name is spared.
    """
    mro = trainer.__mro__
    end = mro.index(nnunets)
    for position, owner in enumerate(mro[:-1]):
        if is_layer(owner) or owner is nnunets or _is_named(owner, mro[:position], is_layer):
            continue
        for name, value in vars(owner).items():
            first = next((c for c in mro[:position] if name in vars(c)), None)
            if first is None or (name.startswith(("__", "_abc_")) and name != "__init__"):
                continue
            in_a_layer = is_layer(first) and is_value(value) and is_value(vars(first)[name])
            if in_a_layer or (position > end and (name in vars(nnunets) or is_layer(first))):
                yield owner, name, first


def is_value(attribute: Any) -> bool:
    """Whether what a class body states is a value, as opposed to a method or property."""
    return not callable(attribute) and not hasattr(attribute, "__get__")


def names_in(owner: type, hook: str) -> dict[CodeType, set[str]]:
    """The names and strings in a method, in what a decorator wraps, and in the methods of its class that it names.

    By the code of each: an empty set for one that does nothing, and none where it is no function of Python's.
    """
    found: dict[CodeType, set[str]] = {}
    queue = [vars(owner)[hook]]
    while queue:
        function = queue.pop()
        function = getattr(function, "__func__", function)  # of a static or class method
        if inspect.isfunction(function) and function.__code__ not in found:
            names = found[function.__code__] = _names(function.__code__)
            queue += [vars(owner)[name] for name in names if name in vars(owner)]
            queue += [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
    return found


def _names(code: CodeType) -> set[str]:
    inner = (_names(constant) for constant in code.co_consts if inspect.iscode(constant))
    strings = {constant for constant in code.co_consts if isinstance(constant, str) and constant.isidentifier()}
    return {*code.co_names, *strings}.union(*inner)


def _is_named(owner: type, front: tuple[type, ...], is_layer: Callable[[type], bool]) -> bool:
    methods = [(c, hook) for c in front if not is_layer(c) for hook in vars(c)]
    return any(owner.__name__ in names for c, hook in methods for names in names_in(c, hook).values())
