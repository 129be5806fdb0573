"""Which cases to look at: each model's best, median and worst."""

from collections.abc import Sequence

from nnunetv2_dsvm.reporting.results import ValidationCase

RANKS = ("best", "median", "worst")


def notable_cases(cases: Sequence[ValidationCase]) -> dict[str, ValidationCase]:
    """The best, the median and the worst case by mean foreground Dice; fewer where there are fewer than three.

    Cases in which no class has a Dice (all masks empty) are left out. Of an even number, the median is the lower one
    of the two in the middle; ties go by name.
    """
    ranked = sorted((c for c in cases if c.mean_dice is not None), key=lambda case: (-case.mean_dice, case.name))
    if not ranked:
        return {}
    places = {"best": 0, "worst": len(ranked) - 1, "median": len(ranked) // 2}
    taken: dict[int, str] = {}
    for rank, place in places.items():
        taken.setdefault(place, rank)
    chosen = {rank: ranked[place] for place, rank in taken.items()}
    return {rank: chosen[rank] for rank in RANKS if rank in chosen}
