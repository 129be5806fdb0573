"""A picture of the report with what is written about it."""

import zlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """A picture with its caption; without a file, the caption says why there is none."""

    heading: str
    file: Path | None
    alternative: str
    caption: str


def picture_name(kind: str, title: str) -> str:
    """The file name of a picture; other characters than those of plain names give way to a checksum."""
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in title)
    unique = plain if plain == title else f"{plain}_{zlib.crc32(title.encode()):08x}"  # or two could have one name
    return f"report_{kind}_{unique}.png"
