"""The one exception for what a user got wrong; everything else that is raised is a defect of ours."""

import errno
from collections.abc import Iterable
from difflib import get_close_matches

#: The numbers of the OSErrors that a full disk, a quota and a limit of a file's size give.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class InputError(ValueError):
    """A user's mistake, told in one line: what was wrong, what was got, what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class ToldElsewhere(InputError):
    """An InputError that another process of a distributed run tells the user."""


def suggest(name: str, valid: Iterable[str]) -> str:
    """The valid names nearest to a misspelt one, as the tail of an error message ("" when there are none)."""
    valid = list(valid)
    near = get_close_matches(name, valid, n=3, cutoff=0.5) or (valid if len(valid) <= 5 else [])
    return f"; did you mean {' or '.join(near)}?" if near else ""
