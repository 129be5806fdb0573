"""Colours and type of the report's pictures."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import matplotlib

LineStyle = Literal["-", "--", ":"]

# Okabe and Ito's colours, told apart by the colour-blind too; without the yellow, which is not seen on white.
FOLD_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES: tuple[LineStyle, ...] = ("-", "--", ":")  # of the labels that share a colour

STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "savefig.dpi": 150,
    "figure.dpi": 150,
}


def styled(changes: Mapping[str, Any] | None = None) -> AbstractContextManager[None]:
    """Within it matplotlib draws in this style, whatever the user's own settings are.

    Args:
        changes: of single settings, by matplotlib's names.
    """
    settings: dict[Any, Any] = dict(matplotlib.rcParamsDefault)  # whose keys' type depends on matplotlib's version
    settings.update(STYLE)
    settings.update(changes or {})
    return matplotlib.rc_context(settings)
