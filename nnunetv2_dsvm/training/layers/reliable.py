"""The layers of reliability in one: what makes a long training worth starting."""

from nnunetv2_dsvm.training.guards.refusals import end_in_a_sentence
from nnunetv2_dsvm.training.layers.finite import FiniteTraining
from nnunetv2_dsvm.training.layers.fitting_checkpoints import FittingCheckpoints
from nnunetv2_dsvm.training.layers.repeatable import RepeatableTraining
from nnunetv2_dsvm.training.layers.surroundings import CheckedSurroundings

end_in_a_sentence()


class ReliableTraining(CheckedSurroundings, FiniteTraining, RepeatableTraining, FittingCheckpoints):
    """A training that stops with a sentence instead of going on wrongly, repeats by a seed, and loses no checkpoint."""
