"""`nnUNetv2_dsvm benchmark` of networks and images so small that it ends in seconds."""

from nnunetv2_dsvm.cli import main as command

TINY = ["--device", "cpu", "--quick", "--repeats", "1", "--dims", "8,16", "--encoder-depths", "1,1"]
TINY += ["--decoder-depths", "1,1", "--size", "16", "--d-state", "2"]


def benchmark(*options: str) -> int:
    """The command's exit status; later options win."""
    return command.main(["benchmark", *TINY, *options])
