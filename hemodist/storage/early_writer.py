"""Writes a large file to the disk while its end is still being made, so that little is left to flush."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from hemodist.storage.local_files import partial_path, put_in_place
from hemodist.storage.store import Store

PIECE = 4 * 2**20
"""Bytes that are written and sent to the disk at a time; a smaller file is written at its end."""


class EarlyWriter:
    """Writes one file of a store as `Store.write` does, but begins early where the store is local.

    An error while it writes early costs only the time that was to be saved: `finish` then writes the whole file by
    `Store.write`, with all its tries. It is a context manager; a file that was not finished leaves nothing behind.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._partial: Path | None = None
        self._file = -1
        self._size = 0
        self._given_up = not store.is_local

    def __enter__(self) -> EarlyWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_up()

    def offer(self, content: memoryview) -> None:
        """Write what has been made so far, once `PIECE` bytes of it are new; none of it may change any more.

        Args:
            content: the file from its beginning, at least as much as at the last call.
        """
        if self._given_up or len(content) - self._size < PIECE:
            return
        try:
            self._write(content)
            # Sends dirty pages of the range to the disk, and does not wait for them (posix_fadvise(2), Linux).
            os.posix_fadvise(self._file, 0, self._size, os.POSIX_FADV_DONTNEED)
        except OSError:
            self._give_up()

    def finish(self, whole: memoryview) -> None:
        """Write the rest; from then on the file is visible under its name.

        Raises:
            StoreError: as `Store.write`.
        """
        if self._partial is not None:
            try:
                self._write(whole)
                os.fsync(self._file)
                os.close(self._file)
                self._file = -1
                put_in_place(self._partial, self._store.local(self._name))
                self._partial = None
                return
            except OSError:
                self._give_up()
        self._store.write(self._name, whole)

    def _write(self, content: memoryview) -> None:
        if self._partial is None:
            target = self._store.local(self._name)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._partial = partial_path(target)
            self._file = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        while self._size < len(content):
            with content[self._size :] as rest:
                self._size += os.write(self._file, rest)

    def _give_up(self) -> None:
        self._given_up = True
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)
            self._partial = None
