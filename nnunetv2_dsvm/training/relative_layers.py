"""The layers that the trainer of a relative is made of, with its published recipe as their defaults."""

from typing import Any

from nnunetv2_dsvm.architecture.relatives.registry import RELATIVES
from nnunetv2_dsvm.training.layers.precise import TrainingPrecision
from nnunetv2_dsvm.training.layers.recipe import AdamRecipe, VisionMambaRecipe
from nnunetv2_dsvm.training.layers.relative_network import RelativeNetwork
from nnunetv2_dsvm.training.layers.reliable import ReliableTraining

_LAYERS = {"AdamW": VisionMambaRecipe, "Adam": AdamRecipe, "nnU-Net": TrainingPrecision}


def layers_of(name: str) -> Any:
    """One base for the trainer of a relative, to stand in front of nnU-Net's.

    A layer, and no trainer, so that its settings give way to those of any class that is mixed in.

    Args:
        name: of `architecture.relatives.registry.RELATIVES`.
    """
    recipe = RELATIVES[name].recipe
    optimisation = _LAYERS[recipe.optimiser]
    body = {"__doc__": f"The layers of {RELATIVES[name].title}.", "__module__": __name__, "relative": name}
    return type(f"{name}Training", (ReliableTraining, optimisation, RelativeNetwork), {**body, **recipe.settings()})
