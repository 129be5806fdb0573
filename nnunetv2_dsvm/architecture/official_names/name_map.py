"""A map between two networks' parameter names, by patterns that read the same both ways."""

import re
from collections.abc import Iterable, Mapping
from functools import cached_property

from torch import Tensor

Rule = tuple[str, str]
_WILDCARDS = {"#": r"(\d+)", "*": r"(.+)"}
_FLAT = (".A_log", ".D")  # ours (K, d, ...), official flat over directions and channels


class NameMap:
    """Official names to ours and back, and the tensors' shapes with them.

    Args:
        network: whose names they are, for messages.
        rules: pairs (official, ours) of whole names, in which `#` stands for a number and `*` for the rest, in the same
            order on both sides; the first that fits counts.
        dead: official names, as patterns, of parameters that no logit depends on and that ours does not have.
        prefixes: that checkpoints may put in front of every official name.
        directions: of the scan, K.
    """

    def __init__(
        self,
        network: str,
        rules: Iterable[Rule],
        *,
        dead: Iterable[str] = (),
        prefixes: Iterable[str] = (),
        directions: int = 4,
    ) -> None:
        self.network, self.directions = network, directions
        self.rules, self.dead, self.prefixes = tuple(rules), tuple(dead), tuple(prefixes)

    @cached_property
    def _patterns(self) -> tuple[list[tuple[re.Pattern, str]], list[tuple[re.Pattern, str]]]:
        to_ours = [(_compiled(official), ours) for official, ours in self.rules]
        return to_ours, [(_compiled(ours), official) for official, ours in self.rules]

    def to_ours(self, official: str) -> str:
        """Raises KeyError for what is no parameter of the network, or a dead one."""
        for prefix in self.prefixes:
            official = official.removeprefix(prefix)
        return self._translated(official, self._patterns[0])

    def to_official(self, ours: str) -> str:
        """Raises KeyError for what the official network does not have, such as auxiliary heads of ours."""
        return self._translated(ours, self._patterns[1])

    def is_dead(self, official: str) -> bool:
        """Whether it is a parameter of the official network that no logit depends on."""
        for prefix in self.prefixes:
            official = official.removeprefix(prefix)
        return any(_compiled(pattern).fullmatch(official) for pattern in self.dead)

    def from_official(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Official names and shapes to ours, without the dead parameters."""
        return dict(self.converted(name, tensor) for name, tensor in state_dict.items() if not self.is_dead(name))

    def converted(self, official: str, tensor: Tensor) -> tuple[str, Tensor]:
        """One parameter under our name and in our shape.

        Linear weights may come as 1×1 convolutions, as VMamba's channels-first layers keep them.
        """
        name = self.to_ours(official)
        if name.endswith(_FLAT):
            return name, tensor.unflatten(0, (self.directions, -1))
        if name.endswith(("_proj.weight", "fc1.weight", "fc2.weight")):
            return name, tensor.flatten(1)
        return name, tensor

    def to_official_state(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `from_official`."""
        return {
            self.to_official(name): tensor.flatten(0, 1) if name.endswith(_FLAT) else tensor
            for name, tensor in state_dict.items()
        }

    def _translated(self, name: str, patterns: Iterable[tuple[re.Pattern, str]]) -> str:
        for pattern, target in patterns:
            if match := pattern.fullmatch(name):
                found = iter(match.groups())
                return re.sub(r"[#*]", lambda _: next(found), target)  # noqa: B023  (used at once)
        raise KeyError(f"{name!r} has no counterpart: it is not a parameter of {self.network}")


def _compiled(pattern: str) -> re.Pattern:
    return re.compile("".join(_WILDCARDS.get(part, re.escape(part)) for part in re.split(r"([#*])", pattern)))


def within(official: str, ours: str, parts: Iterable[Rule]) -> list[Rule]:
    """Rules for what lies within a module: its two names in front of each part's."""
    return [(official + there, ours + here) for there, here in parts]
