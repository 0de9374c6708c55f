"""Trying again: which errors of a folder or an object store may pass by themselves, and how long is waited."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from typing import TypeVar

WAITS = (1.0, 4.0)
"""Seconds between tries, each varied by up to a half so that many workers do not come back at once.

pyarrow's S3 client tries busy stores and broken connections for 6 s by itself, every 0.2 s; these waits come on top.
"""

_LOCAL_MAY_PASS = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR})
"""Errors of local and network folders that another try may not meet again; a full disk is not among them."""

_REMOTE_STAYS = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH")
"""Errors of S3 (as pyarrow names them) that no other try changes."""

T = TypeVar("T")


def with_retries(action: Callable[[], T], *, local: bool) -> T:
    """Call `action`, and call it again after each of `WAITS` while it fails with an error that may pass.

    Args:
        action: what may fail.
        local: whether it works on a local or network folder, whose errors have numbers, or on an object store.

    Raises:
        OSError: the error does not pass by itself, or the last try failed too.
    """
    for wait in WAITS:
        try:
            return action()
        except OSError as error:
            if not _may_pass(error, local):
                raise
            time.sleep(wait * random.uniform(0.5, 1.5))
    return action()


def _may_pass(error: OSError, local: bool) -> bool:
    if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError):
        return False
    if local:
        return error.errno in _LOCAL_MAY_PASS
    return not any(name in str(error) for name in _REMOTE_STAYS)
