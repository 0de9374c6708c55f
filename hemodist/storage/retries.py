"""Trying again: which errors of a folder or an object store may pass by themselves, and how long is waited.

pyarrow's clients try a busy store and a broken connection again by themselves (S3: every 0.2 s, for 6 s), so such an
error is final when it arrives here. What they leave: folders, and answers that are whole and say less than they should.
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from typing import TypeVar

WAITS = (1.0, 4.0)
"""Seconds between tries, each varied by up to a half so that many workers do not come back at once."""

_MAY_PASS = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR})
"""Errors that another try may not meet again; a full disk is not among them."""

_NO_WHOLE_ANSWER = "AWS Error UNKNOWN (HTTP status -1)"
"""How pyarrow names a list of S3 whose XML ends too soon; it does not try again."""

T = TypeVar("T")


def with_retries(action: Callable[[], T]) -> T:
    """Call `action`, and call it again after each of `WAITS` while it fails with an error that may pass.

    Raises:
        OSError: the error does not pass by itself, or the last try failed too.
    """
    for wait in WAITS:
        try:
            return action()
        except OSError as error:
            if error.errno not in _MAY_PASS and _NO_WHOLE_ANSWER not in str(error):
                raise
            time.sleep(wait * random.uniform(0.5, 1.5))
    return action()
