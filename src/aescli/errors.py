"""What this package raises when it cannot do what was asked.

Messages are written for the person at the keyboard: what is wrong, where, and what to do, in one line.
The command line prints them without a traceback; it knows nothing else about a failure.
"""


class AesError(Exception):
    """The run could not do its work (exit status 1)."""


class UsageError(AesError):
    """The command was called in a way that cannot work (exit status 2)."""


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
