"""An object store on loopback: moto's server as a process of its own, and a bucket of what listens there."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pyarrow.fs as pafs
import pytest

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextlib.contextmanager
def s3_process() -> Iterator[tuple[str, int]]:
    """Host and port of a server that answers; it ends with the context."""
    host = "127.0.0.1"
    with socket.socket() as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "import moto.server, sys; moto.server.main(sys.argv[1:])"]
    process = subprocess.Popen(
        [*command, "-H", host, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            assert process.poll() is None, "the server has ended"
            with socket.socket() as client:
                if client.connect_ex((host, port)) == 0:
                    break
            time.sleep(0.1)
        yield host, port
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def bucket_at(url: str, name: str, **more: str) -> Iterator[str]:
    """The URI of a new bucket at an endpoint, to which the environment points meanwhile, with `more` variables."""
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in (ENVIRONMENT | {"AWS_ENDPOINT_URL": url} | more).items():
            patch.setenv(variable, value)
        filesystem, _ = pafs.FileSystem.from_uri(f"s3://{name}/x?allow_bucket_creation=true")
        filesystem.create_dir(name)
        yield f"s3://{name}"
