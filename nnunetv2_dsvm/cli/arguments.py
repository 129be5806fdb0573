"""What the arguments of several subcommands have in common."""

import argparse
from collections.abc import Sequence

from nnunetv2_dsvm.errors import UserError


def positive(text: str) -> int:
    """A whole number from 1.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def refuse_options(args: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Options that would be ignored are an error of the user's.

    Args:
        names: of options that are None where they were not given, without their dash.
        why: goes on after the options in the message.

    Raises:
        UserError: some were given.
    """
    given = [f"-{name}" for name in names if getattr(args, name) is not None]
    if given:
        raise UserError(f"{', '.join(given)} {why}")
