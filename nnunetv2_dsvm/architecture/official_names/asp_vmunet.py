"""The names of ASP-VMUNet (arXiv 2503.19427)."""

from collections.abc import Mapping

from torch import Tensor

from nnunetv2_dsvm.architecture.official_names.name_map import NameMap, Rule, within

_LAYER: list[Rule] = [
    ("skip_scale", "skip_scale"),
    ("norm.*", "norm.*"),
    ("proj.*", "proj.*"),
    ("mamba.x_proj_weight", "ss2d.x_proj"),
    ("mamba.dt_projs_weight", "ss2d.dt_proj"),
    ("mamba.dt_projs_bias", "ss2d.dt_bias"),
    ("mamba.A_logs", "ss2d.A_log"),
    ("mamba.Ds", "ss2d.D"),
    ("mamba.conv2d.*", "ss2d.conv.*"),
    ("mamba.*", "ss2d.*"),
    ("CNNlayer.conv_branch.*", "convs.*"),
    ("SE.norm.*", "attention.norm.*"),
    ("SE.global_reduce.*", "attention.reduce.*"),
    ("SE.channel_select.*", "attention.expand.*"),
    ("SK.fc.*", "merge.squeeze.*"),
    ("SK.fcs.*", "merge.select.*"),
]


def _stage(official: str, ours: str) -> list[Rule]:
    return within(f"{official}.#.", f"{ours}.body.layers.#.", _LAYER)


class _Names(NameMap):
    """Of any atrous steps: K of each scan is seen from its first projection."""

    def from_official(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        ours = super().from_official(state_dict)
        for name in [name for name in ours if name.endswith(("ss2d.A_log", "ss2d.D"))]:
            directions = len(ours[f"{name.rpartition('.')[0]}.x_proj"])
            ours[name] = ours[name].flatten(0, 1).unflatten(0, (directions, -1))
        return ours


ASP_VMUNET = _Names(
    "ASP-VMUNet",
    [
        ("ebn1.*", "encoder.stages.0.body.2.*"),
        ("encoder1.#.*", "encoder.stages.0.body.#.*"),
        *(rule for i in range(1, 6) for rule in _stage(f"encoder{i + 1}", f"encoder.stages.{i}")),
        *((f"ebn{i + 1}.*", f"encoder.stages.{i}.body.norm.*") for i in range(1, 5)),
        *(rule for i in range(5) for rule in _stage(f"decoder{i + 1}", f"decoder.stages.{i}")),
        *((f"dbn{i + 1}.*", f"decoder.stages.{i}.body.norm.*") for i in range(5)),
        ("scab.satt.shared_conv2d.0.*", "decoder.bridge.pixels.*"),
        ("scab.catt.get_all_att.*", "decoder.bridge.across.*"),
        *((f"scab.catt.att{i + 1}.*", f"decoder.bridge.channels.{i}.*") for i in range(5)),
        ("final.*", "decoder.seg_layers.0.*"),
    ],
    dead=["*.CNNlayer.conv.*"],  # a second name of each depthwise convolution
    prefixes=["module."],
)
