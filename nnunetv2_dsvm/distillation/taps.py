"""Taps: the feature maps of any network's named modules, handed out with its logits while it trains."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nnunetv2_dsvm.architecture.stage_info import FeaturesOutput
from nnunetv2_dsvm.architecture.unwrapping import unwrap_model
from nnunetv2_dsvm.distillation.stages import check_modules, named_output


class FeatureTaps:
    """Lets a network in training return its stages' feature maps with its logits, without a change to its code.

    Forward hooks on the named modules keep what they return, one on the network hands it out: `network(image)` is a
    `FeaturesOutput` while `network.training`, and what it always was in evaluation. Parameters, their names and
    inference are untouched; deep supervision's list comes through as `logits`. No feature map is kept beyond its call.

    The hooks sit on the network itself, inside the wrappers of torch.compile and DDP: attach them before or after
    wrapping. torch.compile shares code between the networks of a class and does not look at their hooks, so what is
    compiled so far is forgotten here (`torch.compiler.reset`). A deep copy of the network has taps of its own.
    `torch.nn.DataParallel` is refused, as its replicas would share them. `torch.jit.script` needs `remove` first.

    Examples:
        >>> import torch
        >>> from nnunetv2_dsvm.distillation import FeatureTaps
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 2, 1))
        >>> taps = FeatureTaps(network, encoder=["0"], decoder=["1"])
        >>> [tuple(f.shape) for f in network(torch.rand(1, 1, 8, 8)).encoder_features]
        [(1, 4, 6, 6)]
        >>> taps.remove()

    Args:
        network: any module, also one that torch.compile or DDP has wrapped.
        encoder: the names (as in `named_modules()`) of the modules whose outputs are the encoder's stages, highest
            resolution first; "name[i]" where a module returns a list.
        decoder: the same of the decoder.

    Raises:
        UserValueError: a module that is not there.
        RuntimeError: the network has taps already. In a training step: a module that did not run or ran twice.
    """

    def __init__(self, network: nn.Module, encoder: Sequence[str], decoder: Sequence[str]) -> None:
        self.network = unwrap_model(network)
        self.encoder, self.decoder = tuple(encoder), tuple(decoder)
        self._kept: dict[str, Tensor] = {}  # emptied, not replaced: torch.compile holds on to the one it has seen
        self._collecting = False  # only during a call
        if any(
            isinstance(getattr(hook, "__self__", None), FeatureTaps) for hook in self.network._forward_hooks.values()
        ):
            raise RuntimeError(f"this {type(self.network).__name__} has taps already: remove() them first")
        check_modules(self.network, [*self.encoder, *self.decoder])
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
        self._kept.clear()
        torch.compiler.reset()

    def _begin(self, network: nn.Module, args: Any) -> None:
        self._kept.clear()  # of a call that failed
        self._collecting = network.training
        if network.training and network is not self.network:
            raise RuntimeError(
                f"a replica of the {type(network).__name__} that has the taps was called: torch.nn.DataParallel and "
                "copy.copy share hooks; take DistributedDataParallel or copy.deepcopy"
            )

    def _keep(self, name: str, index: int | None, module: nn.Module, args: Any, output: Any) -> None:
        if not self._collecting:  # in evaluation, or when checkpointing computes a block again in the backward pass
            return
        if name in self._kept:
            raise RuntimeError(f"module {name!r} ran twice in one call: tap a module that runs once")
        self._kept[name] = output if index is None else output[index]

    def _hand_out(self, network: nn.Module, args: Any, output: Any) -> FeaturesOutput | None:
        if not self._collecting:
            return None
        self._collecting = False
        kept = dict(self._kept)
        self._kept.clear()
        empty = [name for name in (*self.encoder, *self.decoder) if name not in kept]
        if empty:
            raise RuntimeError(
                f"the taps on {', '.join(empty)} stayed empty: the modules did not run, or torch.compile ran code that "
                f"it had compiled for another {type(network).__name__}, without taps. It does not look at hooks; with "
                "torch._dynamo.config.skip_nnmodule_hook_guards = False before the first call it does"
            )
        return FeaturesOutput(output, tuple(kept[n] for n in self.encoder), tuple(kept[n] for n in self.decoder))
