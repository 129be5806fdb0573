"""Makes quickstart.png of the picture that `nnUNetv2_dsvm quickstart` writes: its middle row, in few colours.

NNUNETV2_DSVM_SEED=2 nnUNetv2_dsvm quickstart
python documentation/pictures/quickstart.py nnUNetv2_dsvm_quickstart/overlay.png documentation/pictures/quickstart.png
"""

import sys

from PIL import Image

HEADINGS, MIDDLE, LEGEND = (0, 47), (345, 625), (925, 965)  # rows of pixels in the picture of three slices
SIZE, COLOURS = (1200, 965), 128


def main(source: str, target: str) -> None:
    with Image.open(source) as picture:
        if picture.size != SIZE:
            sys.exit(f"{source} has {picture.size} pixels, expected {SIZE}: the quickstart's overlay.png on real CT")
        strips = [picture.convert("RGB").crop((0, top, SIZE[0], bottom)) for top, bottom in (HEADINGS, MIDDLE, LEGEND)]
    result = Image.new("RGB", (SIZE[0], sum(strip.height for strip in strips)))
    top = 0
    for strip in strips:
        result.paste(strip, (0, top))
        top += strip.height
    result.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
