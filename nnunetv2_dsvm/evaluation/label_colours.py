"""The colours of labels in pictures."""

# Okabe and Ito's, told apart by the colour-blind too; without the black, which is not seen on images.
LABEL_COLOURS = ("#D55E00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#E69F00", "#0072B2")


def label_colour(i: int) -> str:
    """Of label i, counted from 0 without the background; repeated where there are more labels than colours."""
    return LABEL_COLOURS[i % len(LABEL_COLOURS)]
