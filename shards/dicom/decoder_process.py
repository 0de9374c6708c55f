"""Decodes compressed frames in a helper process, so that a damaged frame cannot end the run.

The decoders are written in C, C++ and Rust. On damaged frames some of them abort the whole process, or ask for endless
memory or time. Here that ends only the helper, within its limits, and the frame is rejected. The helper starts with the
first compressed frame, decodes all following ones, and ends with the process that started it.

Requests and replies are plain bytes: what comes from the helper is never unpickled.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import subprocess
import sys
import warnings
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_CPU_SECONDS = 2
"""A frame of 512 x 512 takes 0.01 to 0.1 s. CPU time and not the clock's, so that a busy machine changes nothing."""

MAX_BYTES = 768 * 2**20
"""Address space for decoding, beyond what the helper has once its libraries are loaded."""

_READY = b"ready"
_ERROR = b""  # in the place of the array's type


class DecodeError(RuntimeError):
    """A frame could not be decoded; the text says how that showed, and nothing of the file's content."""


class Decoder:
    """Starts the helper process and sends it frames; after a crash, `decode` starts another helper."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def decode(self, syntax: str, content: bytes, options: dict[str, str | int]) -> npt.NDArray[Any]:
        """Decode the first frame.

        Args:
            syntax: UID of the transfer syntax.
            content: the bytes of PixelData, encapsulated.
            options: pydicom's decoding options (rows, columns, bits_allocated, ...).

        Returns:
            The array as the decoder gives it.

        Raises:
            DecodeError: the decoder failed, crashed, or went beyond its limits.
        """
        request = json.dumps({"syntax": syntax, "options": options}).encode()
        pipe = self._pipe or self._start()
        try:
            pipe.send_bytes(request)
            pipe.send_bytes(content)
            kind = pipe.recv_bytes(MAX_BYTES)
            body = pipe.recv_bytes(MAX_BYTES)
        except (EOFError, OSError) as error:
            code = self.close()
            raise DecodeError(f"the decoder ended with signal or code {abs(code)}") from error
        except BaseException:  # Interrupted in between, the helper's next reply would be this one's.
            self.close()
            raise
        if kind == _ERROR:
            raise DecodeError(body.decode())
        return np.frombuffer(body, np.dtype(kind.decode()))

    def close(self) -> int:
        """End the helper; returns its exit code, negative for a signal."""
        process, pipe = self._process, self._pipe
        self._process = self._pipe = None
        if process is None or pipe is None:
            return 0
        pipe.close()  # It ends by itself, unless it is decoding.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        process.kill()
        return process.wait()

    def _start(self) -> Connection:
        # Also where this package is not installed but on the path of the calling process.
        path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
        pipe, theirs = Pipe()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "shards.dicom.decoder_process", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # The libraries' complaints; what matters comes as a reply.
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                pass_fds=[theirs.fileno()],
            )
        self._process, self._pipe = process, pipe
        try:
            pipe.recv_bytes(len(_READY))
        except BaseException as error:  # Interrupted, it would be ready later.
            code = self.close()
            if isinstance(error, EOFError | OSError):
                raise RuntimeError(f"the decoder process does not start: exit code {code}") from error
            raise
        return pipe


SHARED = Decoder()
"""The helper of this process."""

atexit.register(SHARED.close)


def serve(pipe: Connection) -> None:
    """The helper's loop: one reply a request, until the requests end."""
    from pydicom.pixels.decoders.base import get_decoder

    warnings.simplefilter("ignore")
    pipe.send_bytes(_READY)
    _limit_memory()
    while True:
        request, content = json.loads(pipe.recv_bytes()), pipe.recv_bytes()
        _limit_time()
        try:
            array, _ = get_decoder(request["syntax"]).as_array(content, raw=True, index=0, **request["options"])
            kind, body = array.dtype.str.encode(), np.ascontiguousarray(array).tobytes()
        except BaseException as error:  # Rust panics are outside Exception.
            kind, body = _ERROR, type(error).__name__.encode()
        pipe.send_bytes(kind)
        pipe.send_bytes(body)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    if pages:  # Elsewhere the address space cannot be limited usefully; time still is.
        limit = pages * resource.getpagesize() + MAX_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_time() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + MAX_CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, EOFError, ConnectionError):  # Ctrl-C reaches the whole group.
        serve(Connection(int(sys.argv[1])))
