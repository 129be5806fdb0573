"""One table for both directions: pairs of an official parameter name and ours, with places that they share."""

import re
from collections.abc import Iterable, Iterator

Pair = tuple[str, str]  # official, ours; `{i}` stands for a number, any other `{name}` for one part between dots

# Mamba of state-spaces/mamba against blocks/mamba_1d.py; ours has an axis of directions in front of the last five.
MAMBA: tuple[Pair, ...] = (
    ("in_proj.weight", "in_proj.weight"),
    ("out_proj.weight", "out_proj.weight"),
    ("conv1d.{part}", "conv.{part}"),
    ("x_proj.weight", "x_proj"),
    ("dt_proj.weight", "dt_proj"),
    ("dt_proj.bias", "dt_bias"),
    ("A_log", "A_log"),
    ("D", "D"),
)
OF_EACH_DIRECTION = (".mamba.x_proj", ".mamba.dt_proj", ".mamba.dt_bias", ".mamba.A_log", ".mamba.D")


class NameTable:
    """Translates whole names by the first pair that fits.

    Args:
        network: as the error calls it.
        pairs: first come, first served, in both directions.
    """

    def __init__(self, network: str, pairs: Iterable[Pair]) -> None:
        self.network = network
        self._to_ours, self._to_official = [], []
        for official, ours in pairs:
            self._to_ours.append((_pattern(official), _replacement(ours)))
            self._to_official.append((_pattern(ours), _replacement(official)))

    def to_ours(self, official: str) -> str:
        """The name of an official parameter here.

        Raises:
            KeyError: the official network has no parameter of this name.
        """
        return self._translated(official, self._to_ours)

    def to_official(self, ours: str) -> str:
        """The inverse of `to_ours`.

        Raises:
            KeyError: the official network has no such parameter, as an auxiliary head of ours.
        """
        return self._translated(ours, self._to_official)

    def _translated(self, name: str, rules: list[tuple[re.Pattern[str], str]]) -> str:
        for pattern, replacement in rules:
            if match := pattern.fullmatch(name):
                return match.expand(replacement)
        raise KeyError(f"{name!r} has no counterpart: it is not a parameter of {self.network}")


def inside(official: str, ours: str, pairs: Iterable[Pair]) -> Iterator[Pair]:
    """The pairs of a part of a network, with what comes before their names."""
    return ((official + theirs, ours + here) for theirs, here in pairs)


def _pattern(name: str) -> re.Pattern[str]:
    literal = re.escape(name).replace(r"\{", "{").replace(r"\}", "}")
    with_numbers = re.sub(r"\{([ijk])\}", r"(?P<\1>\\d+)", literal)
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^.]+)", with_numbers))


def _replacement(name: str) -> str:
    return re.sub(r"\{(\w+)\}", r"\\g<\1>", name)
