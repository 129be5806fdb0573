"""VMamba's names (arXiv 2401.10166): a block of either generation, the encoders of the ImageNet checkpoints."""

from nnunetv2_dsvm.architecture.official_names.name_map import NameMap, Rule, within

_SCAN: list[Rule] = [
    ("x_proj_weight", "x_proj"),
    ("dt_projs_weight", "dt_proj"),
    ("dt_projs_bias", "dt_bias"),
    ("A_logs", "A_log"),
    ("Ds", "D"),
    ("conv2d.*", "conv.*"),
    ("in_proj.*", "in_proj.*"),
    ("out_norm.*", "out_norm.*"),
    ("out_proj.*", "out_proj.*"),
]
FIRST_BLOCK = [("ln_1.*", "norm.*"), *within("self_attention.", "ss2d.", _SCAN)]
SECOND_BLOCK = [("norm.*", "norm.*"), *within("op.", "ss2d.", _SCAN), ("norm2.*", "norm2.*"), ("mlp.*", "ffn.*")]
_BLOCK = ("layers.#.blocks.#.", "stages.#.blocks.#.")

# Within the encoder, VM-UNet's on our side.
FIRST_ENCODER: list[Rule] = [
    ("patch_embed.proj.*", "patch_embedding.projection.*"),
    ("patch_embed.norm.*", "patch_embedding.norm.*"),
    *within(*_BLOCK, FIRST_BLOCK),
]
FIRST_MERGINGS: list[Rule] = [("layers.#.downsample.*", "mergings.#.*")]
_CLASSIFIERS = ("classifier.*", "norm.*", "head.*")

FIRST_GENERATION = NameMap(
    "VMamba's first generation",
    within("", "encoder.", [*FIRST_ENCODER, *FIRST_MERGINGS]),
    dead=_CLASSIFIERS,
)
SECOND_GENERATION = NameMap(
    "VMamba's second generation",
    within(
        "",
        "encoder.",
        [
            ("patch_embed.0.*", "stem.first.conv.*"),
            ("patch_embed.2.*", "stem.first.norm.*"),
            ("patch_embed.5.*", "stem.second.conv.*"),
            ("patch_embed.7.*", "stem.second.norm.*"),
            *within(*_BLOCK, SECOND_BLOCK),
            ("layers.#.downsample.1.*", "downsamplings.#.conv.*"),
            ("layers.#.downsample.3.*", "downsamplings.#.norm.*"),
        ],
    ),
    dead=_CLASSIFIERS,
)
