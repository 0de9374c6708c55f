"""The sharder from and to an object store; the server speaks S3 on the loopback interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from moto.server import ThreadedMotoServer

from hemodist.store import Store
from shards import build, state
from shards.config import ShardConfig
from shards.verify import verify
from tests.shards.files import KEY, content_of, write_source


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv(state.KEY_VARIABLE, KEY)
        filesystem, _ = pafs.FileSystem.from_uri("s3://sharding/x?allow_bucket_creation=true")
        filesystem.create_dir("sharding")
        yield "s3://sharding"
    server.stop()


def make(source: str, output: str) -> None:
    todo = build.plan(ShardConfig(source, output, samples_per_shard=4, size=32))
    assert isinstance(todo, build.Plan)
    build.run(todo)


def test_an_object_store_holds_the_bytes_of_a_local_data_set(bucket: str, tmp_path: Path) -> None:
    source = write_source(tmp_path / "data", 10, broken=1)
    remote = Store.open(f"{bucket}/data")
    for name, content in content_of(source).items():
        remote.write(name, content)
    make(str(source), str(tmp_path / "out"))
    make(f"{bucket}/data", f"{bucket}/out")
    output = Store.open(f"{bucket}/out")
    assert {name: output.read(name) for name, _ in output.list()} == content_of(tmp_path / "out")
    assert not verify(output).problems
    assert isinstance(build.plan(ShardConfig(f"{bucket}/data", f"{bucket}/out", samples_per_shard=4, size=32)),
                      build.Finished)  # fmt: skip
