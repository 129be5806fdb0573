"""The one exception that the command line shows as a message instead of a traceback."""


class UserError(RuntimeError):
    """Something the person at the command line can put right; the message says what was wrong and what to do."""
