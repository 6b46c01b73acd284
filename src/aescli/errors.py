"""What this package raises when it cannot do what was asked.

Messages are written for the person at the keyboard: what is wrong, where, and what to do, in one line.
The command line prints them without a traceback; it knows nothing else about a failure.
"""

from collections.abc import Sequence


class AesError(Exception):
    """The run could not do its work (exit status 1)."""


class UsageError(AesError):
    """The command was called in a way that cannot work (exit status 2)."""


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def named(what: str, items: Sequence[str], limit: int) -> str:
    """The number of items, what they are, and the first `limit` of them."""
    rest = f", and {len(items) - limit} more" if len(items) > limit else ""
    return f"{len(items)} {what} ({', '.join(items[:limit])}{rest})"
