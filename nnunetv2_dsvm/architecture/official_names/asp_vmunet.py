"""Between the official ASP-VMUNet's parameter names (BaoBao0926/ASP-VMUNet) and ours."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from nnunetv2_dsvm.architecture.official_names.name_table import NameTable, Pair, inside

_LAYER: tuple[Pair, ...] = (
    ("skip_scale", "skip_scale"),
    ("norm.{part}", "norm.{part}"),
    ("proj.{part}", "proj.{part}"),
    ("mamba.x_proj_weight", "ss2d.x_proj"),
    ("mamba.dt_projs_weight", "ss2d.dt_proj"),
    ("mamba.dt_projs_bias", "ss2d.dt_bias"),
    ("mamba.A_logs", "ss2d.A_log"),
    ("mamba.Ds", "ss2d.D"),
    ("mamba.conv2d.{part}", "ss2d.conv.{part}"),
    ("mamba.{layer}.{part}", "ss2d.{layer}.{part}"),
    ("CNNlayer.conv_branch.{k}.{part}", "convs.{k}.{part}"),
    ("SE.norm.{part}", "attention.norm.{part}"),
    ("SE.global_reduce.{part}", "attention.reduce.{part}"),
    ("SE.channel_select.{part}", "attention.expand.{part}"),
    ("SK.fc.{part}", "merge.squeeze.{part}"),
    ("SK.fcs.{k}.{part}", "merge.select.{k}.{part}"),
)
_TABLE = NameTable(
    "ASP-VMUNet",
    (
        ("ebn1.{part}", "encoder.stages.0.body.2.{part}"),
        ("encoder1.{j}.{part}", "encoder.stages.0.body.{j}.{part}"),
        *(
            pair
            for stage in range(2, 7)
            for pair in inside(f"encoder{stage}.{{j}}.", f"encoder.stages.{stage - 1}.body.layers.{{j}}.", _LAYER)
        ),
        *((f"ebn{stage}.{{part}}", f"encoder.stages.{stage - 1}.body.norm.{{part}}") for stage in range(2, 6)),
        *(
            pair
            for stage in range(1, 6)
            for pair in inside(f"decoder{stage}.{{j}}.", f"decoder.stages.{stage - 1}.body.layers.{{j}}.", _LAYER)
        ),
        *((f"dbn{stage}.{{part}}", f"decoder.stages.{stage - 1}.body.norm.{{part}}") for stage in range(1, 6)),
        ("scab.satt.shared_conv2d.0.{part}", "decoder.bridge.pixels.{part}"),
        ("scab.catt.get_all_att.{part}", "decoder.bridge.across.{part}"),
        *((f"scab.catt.att{i}.{{part}}", f"decoder.bridge.channels.{i - 1}.{{part}}") for i in range(1, 6)),
        ("final.{part}", "decoder.seg_layers.0.{part}"),
    ),
)
_OF_EACH_WALK = ("ss2d.A_log", "ss2d.D")  # official ones have the walks and the channels in one axis


def stored_once(official: Iterable[str]) -> list[str]:
    """The official names without those that name a depthwise convolution a second time."""
    return [name for name in official if ".CNNlayer.conv." not in name]


def from_official_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official weights under our names, each once.

    Raises:
        KeyError: a name that the official network has not.
    """
    ours = {_TABLE.to_ours(name): state_dict[name] for name in stored_once(state_dict)}
    walks = {name.removesuffix(".x_proj"): len(tensor) for name, tensor in ours.items() if name.endswith(".x_proj")}
    return {
        name: tensor.unflatten(0, (walks[name.rpartition(".")[0]], -1)) if name.endswith(_OF_EACH_WALK) else tensor
        for name, tensor in ours.items()
    }


def to_official_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_official_state_dict`, without the second names.

    Raises:
        KeyError: an auxiliary head, which the official network has not.
    """
    return {
        _TABLE.to_official(name): tensor.flatten(0, 1) if name.endswith(_OF_EACH_WALK) else tensor
        for name, tensor in state_dict.items()
    }
