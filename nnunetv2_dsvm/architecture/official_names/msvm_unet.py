"""MSVM-UNet's names (arXiv 2408.13735)."""

from nnunetv2_dsvm.architecture.official_names.name_map import NameMap, Rule, within
from nnunetv2_dsvm.architecture.official_names.vmamba import SECOND_BLOCK

_MULTI_SCALE_BLOCK = [("mlp.multiscale_conv.dw_convs.*", "ffn.convs.*"), *SECOND_BLOCK]
_EXPANDING: list[Rule] = [
    ("expand.0.*", "expand.*"),
    ("expand.1.*", "batch_norm.*"),
    ("expand.3.*", "conv.*"),
    ("norm.*", "norm.*"),
]

MSVM_UNET = NameMap(
    "MSVM-UNet",
    [
        ("encoder.layer0.0.*", "encoder.stem.first.conv.*"),
        ("encoder.layer0.2.*", "encoder.stem.first.norm.*"),
        ("encoder.layer1.0.*", "encoder.stem.second.conv.*"),
        ("encoder.layer1.2.*", "encoder.stem.second.norm.*"),
        ("encoder.downsamples.#.1.*", "encoder.downsamplings.#.conv.*"),
        ("encoder.downsamples.#.3.*", "encoder.downsamplings.#.norm.*"),
        *within("encoder.layers.#.blocks.#.", "encoder.stages.#.blocks.#.", SECOND_BLOCK),
        *within("decoder.layers.#.up.", "decoder.expandings.#.", _EXPANDING),
        ("decoder.layers.#.concat_layer.*", "decoder.fusions.#.*"),
        *within("decoder.layers.#.vss_layer.blocks.#.", "decoder.stages.#.blocks.#.", _MULTI_SCALE_BLOCK),
        ("decoder.out_layers.0.out.*", "decoder.seg_layers.0.*"),
        *within("decoder.out_layers.0.", "decoder.final_expanding.", _EXPANDING),
    ],
    prefixes=["_model.", "module."],
)
