"""The names of LightM-UNet (arXiv 2403.05246), of the code since 29 March 2024."""

from nnunetv2_dsvm.architecture.official_names.mamba import MAMBA, MambaNames
from nnunetv2_dsvm.architecture.official_names.name_map import Rule, within

_RESIDUAL_MAMBA: list[Rule] = [
    ("skip_scale", "skip_scale"),
    ("norm.*", "norm.*"),
    ("proj.*", "proj.*"),
    *within("mamba.", "mamba.", MAMBA),
]
_BLOCK: list[Rule] = [
    ("norm1.*", "norm1.*"),
    ("norm2.*", "norm2.*"),
    *within("conv1.", "mamba1.", _RESIDUAL_MAMBA),
    *within("conv2.", "mamba2.", _RESIDUAL_MAMBA),
]
_UP_BLOCK: list[Rule] = [
    ("skip_scale", "skip_scale"),
    ("norm1.*", "norm1.*"),
    ("norm2.*", "norm2.*"),
    ("conv.#.conv.weight", "conv.#.weight"),
]
LIGHT_M_UNET = MambaNames(
    "LightM-UNet",
    [
        ("convInit.#.conv.weight", "encoder.stem.#.weight"),
        *within("down_layers.#.0.0.", "encoder.stages.#.0.mamba.", _RESIDUAL_MAMBA),
        *within("down_layers.#.#.", "encoder.stages.#.#.", _BLOCK),
        ("up_samples.#.0.conv.weight", "decoder.upsamplings.#.weight"),
        *within("up_layers.#.#.", "decoder.stages.#.#.", _UP_BLOCK),
        ("conv_final.0.*", "decoder.seg_layers.0.0.*"),
        ("conv_final.2.#.conv.*", "decoder.seg_layers.0.2.#.*"),
    ],
)
