"""The one error that a user is meant to read."""

from collections.abc import Iterable
from difflib import get_close_matches


class MulliganError(Exception):
    """Something the user can fix: the message says what happened, what was expected, what to do.

    The command line prints the message without a traceback and exits with 1. Anything else that
    escapes is a defect of Mulligan's own and keeps its traceback.
    """


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint such as ``did you mean 'steps'?``, or the list of valid names."""
    names = sorted(valid)
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"valid names: {', '.join(names)}"
