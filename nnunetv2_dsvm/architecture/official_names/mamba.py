"""The names of Mamba's block (state-spaces/mamba), against blocks/mamba_1d.py."""

from collections.abc import Mapping

from torch import Tensor

from nnunetv2_dsvm.architecture.official_names.name_map import NameMap, Rule

MAMBA: list[Rule] = [
    ("conv1d.*", "conv.*"),
    ("x_proj.weight", "x_proj"),
    ("dt_proj.weight", "dt_proj"),
    ("dt_proj.bias", "dt_bias"),
    ("A_log", "A_log"),
    ("D", "D"),
    ("in_proj.weight", "in_proj.weight"),
    ("out_proj.weight", "out_proj.weight"),
]
_OF_THE_DIRECTION = (".x_proj", ".dt_proj", ".dt_bias")  # ours have an axis of one direction in front


class MambaNames(NameMap):
    """Of a network with one-dimensional Mamba, whose scan has one direction."""

    def __init__(self, network: str, rules: list[Rule], dead: list[str] | None = None) -> None:
        super().__init__(network, rules, dead=dead or [], prefixes=["module."], directions=1)

    def converted(self, official: str, tensor: Tensor) -> tuple[str, Tensor]:
        name, tensor = super().converted(official, tensor)
        return name, tensor[None] if name.endswith(_OF_THE_DIRECTION) else tensor

    def to_official_state(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        plain = {name: t[0] if name.endswith(_OF_THE_DIRECTION) else t for name, t in state_dict.items()}
        return super().to_official_state(plain)
