"""Decodes compressed frames in a helper process, so that a damaged frame cannot end the run.

The decoders are written in C, C++ and Rust. On damaged frames some of them abort the whole process, or ask for endless
memory or time. Here that ends only the helper, within its limits, and the frame is rejected. The helper starts with the
first compressed frame, decodes all following ones, and ends with the process that started it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

MAX_CPU_SECONDS = 2
"""A frame of 512 x 512 takes 0.01 to 0.1 s. CPU time and not the clock's, so that a busy machine changes nothing."""

MAX_BYTES = 768 * 2**20
"""Address space for decoding, beyond what the helper has once its libraries are loaded."""

_HEAD = struct.Struct("<II")  # bytes of the JSON, bytes of the frame
_REPLY = struct.Struct("<c8sI")  # status, dtype, bytes of what follows
_ARRAY, _ERROR = b"A", b"E"
_READY = b"ready"


class DecodeError(RuntimeError):
    """A frame could not be decoded; the text says how that showed, and nothing of the file's content."""


class Decoder:
    """Starts the helper process and sends it frames; after a crash, `decode` starts another helper."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

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
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(_HEAD.pack(len(request), len(content)))
            process.stdin.write(request)
            process.stdin.write(content)
            process.stdin.flush()
            status, dtype, size = _REPLY.unpack(_exactly(process.stdout, _REPLY.size))
            body = _exactly(process.stdout, size)
        except (BrokenPipeError, EOFError) as error:
            code = self.close()
            raise DecodeError(f"the decoder ended with signal or code {abs(code)}") from error
        except BaseException:  # Interrupted in between, the helper's next reply would be this one's.
            self.close()
            raise
        if status == _ERROR:
            raise DecodeError(body.decode())
        return np.frombuffer(body, np.dtype(dtype.rstrip(b"\0").decode()))

    def close(self) -> int:
        """End the helper; returns its exit code, negative for a signal."""
        process, self._process = self._process, None
        if process is None:
            return 0
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()  # It ends by itself, unless it is decoding.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        process.kill()
        process.stdout.close()
        return process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        # Also where this package is not installed but on the path of the calling process.
        path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "shards.dicom.decoder_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # The libraries' complaints; what matters comes as a reply.
            env=os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdout is not None
        try:
            _exactly(self._process.stdout, len(_READY))
        except EOFError as error:
            raise RuntimeError(f"the decoder process does not start: exit code {self.close()}") from error
        return self._process


SHARED = Decoder()
"""The helper of this process."""

atexit.register(SHARED.close)


def serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """The helper's loop: one reply a request, until the requests end."""
    from pydicom.pixels.decoders.base import get_decoder

    warnings.simplefilter("ignore")
    replies.write(_READY)
    replies.flush()
    _limit_memory()
    while head := requests.read(_HEAD.size):
        lengths = _HEAD.unpack(head)
        request, content = json.loads(_exactly(requests, lengths[0])), _exactly(requests, lengths[1])
        _limit_time()
        try:
            array, _ = get_decoder(request["syntax"]).as_array(content, raw=True, index=0, **request["options"])
            reply, dtype, body = _ARRAY, array.dtype.str.encode(), np.ascontiguousarray(array).tobytes()
        except BaseException as error:  # Rust panics are outside Exception.
            reply, dtype, body = _ERROR, b"", type(error).__name__.encode()
        replies.write(_REPLY.pack(reply, dtype, len(body)))
        replies.write(body)
        replies.flush()


def _exactly(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return content


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    if pages:  # Elsewhere the address space cannot be limited usefully; time still is.
        limit = pages * resource.getpagesize() + MAX_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_time() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + MAX_CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))


def _main() -> None:
    # Libraries may print to the standard output, so replies get a descriptor of their own.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):  # Ctrl-C reaches the whole group.
        serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    _main()
