"""The load report: where a network's weights come from, and what of the file found no place."""

import re
from collections.abc import Sequence

from nnunetv2_dsvm.architecture.vm_unet import VMUNet
from nnunetv2_dsvm.files.text import aligned
from nnunetv2_dsvm.models.pretrained.fitting import HEADS, DecoderSource, Fitted, in_words, sizes
from nnunetv2_dsvm.models.pretrained.reading import FIRST_LAYERS, Pretrained

# The network's parts, by how the names of their weights start.
PARTS: dict[str, str | tuple[str, ...]] = {
    "patch embedding": "encoder.patch_embedding.",
    "encoder's blocks": "encoder.stages.",
    "patch mergings": "encoder.mergings.",
    "decoder's blocks": "decoder.stages.",
    "patch expandings": ("decoder.expandings.", "decoder.final_expanding."),
    "encoder": "encoder.",
    "network without heads": "",
}


def load_report(pretrained: Pretrained, fitted: Fitted, network: VMUNet, decoder: DecoderSource) -> str:
    """Tensors and parameters from the file, by part of the network, and by reason those that were not loaded."""
    there, here = pretrained.sizes, sizes(network)
    entry = f" (entry {pretrained.entry})" if pretrained.entry else ""
    lines = [
        f"read: {pretrained.file.name}, {pretrained.naming}{entry}, "
        f"{len(pretrained.names) + len(pretrained.without_counterpart)} tensors: {in_words(there)}",
        f"network: {in_words(here)}",
        "",
        _table(fitted),
        "",
    ]
    channels = here["input_channels"]
    if any(fitted.source.get(name) for name in FIRST_LAYERS) and channels != there["input_channels"]:
        lines.append(
            f"patch embedding: {there['input_channels']} input channels became {channels}, each with the sum over the "
            f"file's channels divided by {channels}"
        )
    if any(source and name.startswith("decoder.stages.") for name, source in fitted.source.items()):
        own = decoder == "auto" and pretrained.has_decoder
        lines.append(
            "decoder's blocks: " + ("the file's" if own else "copies of the file's encoder, deepest stage first")
        )
    if fitted.inflated:
        lines.append(
            f"made of an image's for volumes: {len(fitted.inflated)} tensors, repeated along the depth and divided by "
            "its length where a layer sums over it; the scan's directions along the depth are those along the height"
        )
    elif pretrained.axes < network.sizes.axes:
        lines.append(
            "the file is of images, the network of volumes: --inflate makes the one's weights into the other's"
        )
    lines += _not_loaded(pretrained, fitted, decoder)
    return "\n".join(lines)


def _table(fitted: Fitted) -> str:
    rows = [["part", "tensors", "parameters", "from the file"]]
    for part, start in PARTS.items():
        loaded, parameters, tensors, all_parameters = fitted.loaded(start)
        rows.append([part, f"{loaded}/{tensors}", f"{parameters:,}/{all_parameters:,}", f"{fitted.share(start):.1%}"])
    return aligned(rows)


def _not_loaded(pretrained: Pretrained, fitted: Fitted, decoder: DecoderSource) -> list[str]:
    fresh = [name for name, source in fitted.source.items() if not source]
    missing = [name for name in fresh if name not in fitted.other_shapes]
    used = {source for source in fitted.source.values() if source}
    unused = {ours: name for ours, name in pretrained.names.items() if name not in used}
    heads = [name for ours, name in unused.items() if HEADS in ours]
    left_over = [name for ours, name in unused.items() if HEADS not in ours and ours not in fitted.other_shapes]
    asked = " (decoder fresh)" if decoder == "fresh" else ""
    shapes = [f"{name} ({difference})" for name, difference in fitted.other_shapes.items()]
    reasons = (
        (_layers(missing), f"freshly initialised, since the file has nothing for them{asked}", missing),
        (shapes, "freshly initialised, since the file's have other shapes", shapes),
        (_layers(left_over), "of the file without a place: the network has no such layer, or its decoder is not the "
                             "file's", left_over),
        (_layers(pretrained.without_counterpart), "of the file are no part of a VM-UNet",
         pretrained.without_counterpart),
        (_layers(heads), "of the file are heads, which nnU-Net starts anew in every training", heads),
    )  # fmt: skip
    return [f"{len(names)} tensors {why}: {_some(shown)}" for shown, why, names in reasons if names]


def _layers(names: Sequence[str]) -> list[str]:
    """`layers.2.blocks.5` for all of its parameters: each name up to its last number, else up to its last dot."""
    found = (re.match(r".*\.\d+(?=\.)", name) for name in names)
    of_each = (m[0] if m else name.rpartition(".")[0] for m, name in zip(found, names, strict=True))
    return list(dict.fromkeys(of_each))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 5 else ", ".join([*names[:3], "…", names[-1]])
