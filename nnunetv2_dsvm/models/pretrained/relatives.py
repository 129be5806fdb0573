"""Fits published or ImageNet's weights into a relative of VM-UNet, whose blocks are told apart by their shapes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from nnunetv2_dsvm.architecture.checkpoints import to_first_generation_name
from nnunetv2_dsvm.architecture.official_names.registry import OFFICIAL_NAMES
from nnunetv2_dsvm.architecture.official_names.vmamba import FIRST_GENERATION, SECOND_GENERATION
from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES
from nnunetv2_dsvm.architecture.segmentation_network import SegmentationNetwork
from nnunetv2_dsvm.errors import UserError
from nnunetv2_dsvm.files.safe_load import load_safely
from nnunetv2_dsvm.files.text import by
from nnunetv2_dsvm.models.pretrained.fitting import HEADS, Fitted, to_input_channels
from nnunetv2_dsvm.models.pretrained.reading import state_dicts, stripped

Renamed = dict[str, tuple[str, Tensor]]  # by our name: the name in the file, and the weight in our shape


@dataclass(frozen=True)
class FittedRelative:
    """What of a checkpoint found a place.

    Attributes:
        fitted: the network's weights and where they come from.
        naming: whose names the file has.
        entry: of the checkpoint that held them.
        without_place: names in the file for which the network has nothing.
    """

    fitted: Fitted
    naming: str
    entry: str
    without_place: tuple[str, ...]


def fit_relative(file: Path, name: str, network: SegmentationNetwork) -> FittedRelative:
    """Takes every weight of the network that the file has in the same shape; the others stay fresh.

    The file may be the official network's, VMamba's classifier of either generation, or a checkpoint of our trainers.
    Which of them, the weights say that would find a place: names alone do not tell VMamba's generations apart.

    Args:
        file: the checkpoint; nothing but tensors and plain values is built from it.
        name: of the relative.
        network: its values are the fresh ones; it is not changed.

    Raises:
        UserError: the file is missing, damaged, of another network, or has blocks of another kind.
    """
    fresh = {k: v for k, v in network.state_dict().items() if HEADS not in k}
    found: list[tuple[int, FittedRelative]] = []
    for entry, tensors in state_dicts(load_safely(file)).items():
        for naming, rename in _namings(name):
            renamed, rest = _renamed(tensors, rename)
            places = len(fresh.keys() & renamed.keys())
            found.append((places, _fit(fresh, renamed, network.input_channels, naming, entry, rest)))
    best = max(found, key=lambda each: (each[0], each[1].fitted.share("")), default=None)
    if best is None or not best[0]:
        raise UserError(
            f"{file} holds nothing for {RELATIVES[name].title}: expected the official network's weights, VMamba's, or "
            "a checkpoint of this package's trainers. Nothing was written."
        )
    _check_finite(file, best[1].fitted)
    _check_blocks(file, name, best[1])
    return best[1]


def in_words(result: FittedRelative) -> str:
    """The report: what was loaded, and what was not."""
    fitted = result.fitted
    lines = [f"read: {result.naming}" + (f" (entry {result.entry})" if result.entry else "")]
    for part, title in (("encoder.", "encoder"), ("decoder.", "decoder"), ("", "network without heads")):
        tensors, parameters, all_tensors, all_parameters = fitted.loaded(part)
        lines.append(f"{title}: {tensors} of {all_tensors} tensors, {parameters:,} of {all_parameters:,} parameters")
    lines += [f"not loaded, another shape: {name}, {shapes}" for name, shapes in fitted.other_shapes.items()]
    if rest := result.without_place:
        lines.append(f"without a place in this network: {len(rest)} tensors, such as {rest[0]}")
    return "\n".join(lines)


def _namings(name: str) -> Iterator[tuple[str, Callable[[str, Tensor], tuple[str, Tensor]]]]:
    def ours(there: str, tensor: Tensor) -> tuple[str, Tensor]:
        return there, tensor

    def first_generation(there: str, tensor: Tensor) -> tuple[str, Tensor]:
        return FIRST_GENERATION.converted(to_first_generation_name(there), tensor)

    yield "this package's", ours
    if name in OFFICIAL_NAMES:
        yield f"the official {OFFICIAL_NAMES[name].network}", OFFICIAL_NAMES[name].converted
    yield FIRST_GENERATION.network, first_generation
    yield SECOND_GENERATION.network, SECOND_GENERATION.converted


def _renamed(
    tensors: Mapping[str, Tensor], rename: Callable[[str, Tensor], tuple[str, Tensor]]
) -> tuple[Renamed, tuple[str, ...]]:
    renamed: Renamed = {}
    rest = []
    for there, tensor in tensors.items():
        # Prefixes of official networks may be part of their names (VM-UNet V2's "vmunet.").
        for candidate in dict.fromkeys((there, stripped(there))):
            try:
                ours, value = rename(candidate, tensor)
            except (KeyError, RuntimeError, IndexError):  # another name, or a tensor of another rank
                continue
            renamed[ours] = there, value
            break
        else:
            rest.append(there)
    return renamed, tuple(rest)


def _fit(
    fresh: Mapping[str, Tensor], renamed: Renamed, input_channels: int, naming: str, entry: str, rest: tuple[str, ...]
) -> FittedRelative:
    weights, other_shapes = {}, {}
    sources: dict[str, str | None] = dict.fromkeys(fresh)
    for name, value in fresh.items():
        weights[name] = value.clone()
        if name not in renamed:
            continue
        there, loaded = renamed[name]
        if _is_of_other_channels(loaded, value, input_channels):
            loaded = to_input_channels(loaded, input_channels)
        if loaded.shape != value.shape:
            other_shapes[name] = f"{by(loaded.shape)} there and {by(value.shape)} here"
            continue
        weights[name], sources[name] = loaded.to(value.dtype).clone(), there
    unused = (there for ours, (there, _) in renamed.items() if ours not in fresh and HEADS not in ours)
    return FittedRelative(Fitted(weights, sources, other_shapes), naming, entry, (*rest, *unused))


def _is_of_other_channels(loaded: Tensor, fresh: Tensor, input_channels: int) -> bool:
    """Whether a convolution of the image itself differs in the image's channels alone."""
    if loaded.ndim != 4 or loaded.ndim != fresh.ndim or fresh.shape[1] != input_channels:
        return False
    return loaded.shape[1] != fresh.shape[1] and loaded[:, :1].shape == fresh[:, :1].shape


def _check_finite(file: Path, fitted: Fitted) -> None:
    for name, there in fitted.source.items():
        if there is not None and not fitted.weights[name].isfinite().all():
            raise UserError(f"{file} is damaged: {there} holds NaN or infinite values. Nothing was written.")


def _check_blocks(file: Path, name: str, result: FittedRelative) -> None:
    """A block of another kind, of which some weights fit by chance, is no block of this network."""
    other = {ours: shapes for ours, shapes in result.fitted.other_shapes.items() if ".blocks." in ours}
    if other:
        first, shapes = next(iter(other.items()))
        raise UserError(
            f"{file} ({result.naming}) has other blocks than {RELATIVES[name].title}: {len(other)} of their weights "
            f"have another shape, the first being {first}, {shapes}. VMamba's first generation has 16 states and a "
            "gate, its second one state, no gate and an FFN; files named alike may be either. Nothing was written."
        )
