"""VM-UNet V2's names (arXiv 2403.09157)."""

from nnunetv2_dsvm.architecture.official_names.name_map import NameMap, within
from nnunetv2_dsvm.architecture.official_names.vmamba import FIRST_ENCODER, FIRST_MERGINGS

# The official code counts levels from 1 and names each; its deconv2, 3, 4 lead from y_4, y_3, y_2 on.
_LEVELS = [
    rule
    for level in range(4)
    for rule in (
        (f"ca_{level + 1}.fc1.*", f"decoder.attentions.{level}.squeeze.*"),
        (f"ca_{level + 1}.fc2.*", f"decoder.attentions.{level}.excite.*"),
        (f"sa_{level + 1}.conv1.*", f"decoder.attentions.{level}.spatial.*"),
        (f"Translayer_{level + 1}.conv.*", f"decoder.reductions.{level}.0.*"),
        (f"Translayer_{level + 1}.bn.*", f"decoder.reductions.{level}.1.*"),
        (f"sdi_{level + 1}.convs.*", f"decoder.infusions.{level}.convs.*"),
    )
]
_STEPS = [(f"deconv{2 + i}.*", f"decoder.sums.{2 - i}.up.*") for i in range(3)]
# seg_outs are in the order of the decoder: y_4's first.
_HEADS = [(f"seg_outs.{i}.*", f"decoder.seg_layers.{3 - i}.*") for i in range(4)]

VM_UNET_V2 = NameMap(
    "VM-UNet V2",
    [*_LEVELS, *_STEPS, ("deconv6.*", "decoder.seg_layers.0.enlarge.*"), *_HEADS,
     *within("vmunet.", "encoder.", [*FIRST_ENCODER, *FIRST_MERGINGS])],
    dead=["vmunet.layers.3.*", "deconv5.*"],
    prefixes=["module."],
)  # fmt: skip
