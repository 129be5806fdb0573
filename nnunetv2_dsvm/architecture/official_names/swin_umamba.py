"""The names of Swin-UMamba and Swin-UMamba† (arXiv 2402.03302)."""

from nnunetv2_dsvm.architecture.official_names.name_map import NameMap, Rule, within
from nnunetv2_dsvm.architecture.official_names.vmamba import FIRST_BLOCK, FIRST_ENCODER

_ENCODER: list[Rule] = within("vssm_encoder.", "encoder.", [*FIRST_ENCODER, ("downsamples.#.*", "mergings.#.*")])
_RESIDUAL: list[Rule] = [(f"conv{i}.conv.*", f"conv{i}.*") for i in (1, 2, 3)]
# encoder1 to 5 make the skips; decoder6 to 2 are the steps up, from the deepest, and decoder1 is what follows them.
_SKIPS = [rule for i in range(5) for rule in within(f"encoder{i + 1}.layer.", f"decoder.skips.{i}.", _RESIDUAL)]
_STEPS = [
    rule
    for i in range(5)
    for rule in (
        (f"decoder{6 - i}.transp_conv.conv.*", f"decoder.steps.{i}.up.*"),
        *within(f"decoder{6 - i}.conv_block.", f"decoder.steps.{i}.residual.", _RESIDUAL),
    )
]

SWIN_UMAMBA = NameMap(
    "Swin-UMamba",
    [
        ("stem.0.*", "stem.conv.*"),
        ("stem.1.*", "stem.norm.*"),
        *_ENCODER,
        *_SKIPS,
        *_STEPS,
        *within("decoder1.layer.", "decoder.last.", _RESIDUAL),
        ("out_layers.#.conv.conv.*", "decoder.seg_layers.#.*"),
    ],
    prefixes=["module."],
)
SWIN_UMAMBA_D = NameMap(
    "Swin-UMamba†",
    [
        *_ENCODER,
        *within("decoder.stages.#.blocks.#.", "decoder.stages.#.blocks.#.", FIRST_BLOCK),
        ("decoder.expand_layers.3.*", "decoder.final_expanding.*"),
        ("decoder.expand_layers.#.*", "decoder.expandings.#.*"),
        ("decoder.concat_back_dim.#.*", "decoder.fusions.#.*"),
        # The official heads begin with the coarsest.
        *((f"decoder.seg_layers.{3 - i}.*", f"decoder.seg_layers.{i}.*") for i in range(4)),
    ],
    prefixes=["module."],
)
