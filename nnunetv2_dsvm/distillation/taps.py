"""Taps: the feature maps of any network's named modules, handed out with its logits while it trains."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nnunetv2_dsvm.architecture.stage_info import FeaturesOutput
from nnunetv2_dsvm.distillation.stages import bare_network, named_output, refuse_missing


class FeatureTaps:
    """Lets a network in training return its stages' feature maps with its logits, without a change to its code.

    Forward hooks on the named modules keep what they return, one on the network hands it out: `network(image)` is a
    `FeaturesOutput` while `network.training`, and what it always was in evaluation. Parameters, their names and
    inference are untouched; deep supervision's list comes through as `logits`. No feature map is kept beyond its call.

    The hooks sit on the network itself, inside the wrappers of torch.compile and DDP, so attach them before or after
    wrapping, but before the first call: compiled code does not notice hooks that come later. For the same reason
    compiled code is forgotten here (`torch.compiler.reset`). A copy of the network, and one that was pickled as a
    whole, has taps of its own. `torch.nn.DataParallel` is refused: its replicas would share them; take DDP.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1))
        >>> taps = FeatureTaps(network, encoder=["0"], decoder=["1"])
        >>> [tuple(f.shape) for f in network(torch.rand(1, 1, 8, 8)).encoder_features]
        [(1, 4, 6, 6)]
        >>> taps.remove()

    Args:
        network: any module, also one that torch.compile or DDP has wrapped.
        encoder: the names (as in `named_modules()`) of the modules whose outputs are the encoder's stages, highest
            resolution first; "name[i]" where a module returns a list.
        decoder: the same of the decoder.

    Attributes:
        active: whether the network returns features in training.

    Raises:
        UserValueError: a module that is not there.
        RuntimeError: the network has taps already. In a training step: a module that did not run or ran twice.
    """

    def __init__(self, network: nn.Module, encoder: Sequence[str], decoder: Sequence[str]) -> None:
        self.network = bare_network(network)
        self.encoder, self.decoder = tuple(encoder), tuple(decoder)
        self.active = True
        self._kept: dict[str, Tensor] | None = None  # only during a call
        if any(
            isinstance(getattr(hook, "__self__", None), FeatureTaps) for hook in self.network._forward_hooks.values()
        ):
            raise RuntimeError(f"this {type(self.network).__name__} has taps already: remove() them first")
        refuse_missing(self.network, [*self.encoder, *self.decoder])
        self._handles: list[RemovableHandle] = [self.network.register_forward_pre_hook(self._begin)]
        for name in dict.fromkeys([*self.encoder, *self.decoder]):
            path, index = named_output(name)
            keep = partial(self._keep, name, index)
            self._handles.append(self.network.get_submodule(path).register_forward_hook(keep))
        self._handles.append(self.network.register_forward_hook(self._hand_out))
        torch.compiler.reset()

    def remove(self) -> None:
        """Takes the hooks away: the network is as it was."""
        for handle in self._handles:
            handle.remove()
        self._kept = None
        torch.compiler.reset()

    def _begin(self, network: nn.Module, args: Any) -> None:
        if network is not self.network:
            raise RuntimeError(
                f"a replica of the {type(network).__name__} that has the taps was called: torch.nn.DataParallel and "
                "copy.copy share hooks; take DistributedDataParallel or copy.deepcopy"
            )
        self._kept = {} if network.training and self.active else None

    def _keep(self, name: str, index: int | None, module: nn.Module, args: Any, output: Any) -> None:
        if self._kept is None:  # in evaluation, or when checkpointing computes a block again in the backward pass
            return
        if name in self._kept:
            raise RuntimeError(f"module {name!r} ran twice in one call: tap a module that runs once")
        self._kept[name] = output if index is None else output[index]

    def _hand_out(self, network: nn.Module, args: Any, output: Any) -> FeaturesOutput | None:
        kept, self._kept = self._kept, None
        if kept is None:
            return None
        empty = [name for name in (*self.encoder, *self.decoder) if name not in kept]
        if empty:
            raise RuntimeError(
                f"the taps on {', '.join(empty)} stayed empty: the modules did not run, or torch.compile ran code that "
                f"it had compiled for another {type(network).__name__}, without taps (it does not look at hooks); "
                "attach the taps of all networks before the first of them is called, or call torch.compiler.reset() "
                "between them"
            )
        return FeaturesOutput(output, tuple(kept[n] for n in self.encoder), tuple(kept[n] for n in self.decoder))
