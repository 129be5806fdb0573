"""Errors that are meant for a person at the command line: their sentence is shown, not a traceback."""


class Refusal(Exception):
    """Marks an error whose message says what was wrong and what to do; mixed into the kind that a caller may catch."""


class UserError(Refusal, RuntimeError):
    """Something the person at the command line can put right; the message says what was wrong and what to do."""


class UserValueError(Refusal, ValueError):
    """The same, of a value: nnU-Net takes a RuntimeError of the network for a lack of memory, and goes on."""
