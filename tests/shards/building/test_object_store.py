"""The sharder from and to an object store; the server speaks S3 on the loopback interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hemodist.storage.store import Store
from shards.building import build, unfinished
from shards.building.options import ShardConfig
from shards.inspect.verify import verify
from shards.packing import task
from tests.support.dicom_files import KEY, content_of, write_source
from tests.support.s3 import bucket_at, s3_process


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    key = {unfinished.KEY_VARIABLE: KEY}
    with s3_process() as (host, port), bucket_at(f"http://{host}:{port}", "sharding", **key) as uri:
        yield uri


def make(source: str, output: str) -> None:
    todo = build.plan(ShardConfig(source, output, samples_per_shard=4, size=32))
    assert isinstance(todo, build.BuildPlan)
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


def test_an_object_store_is_listed_labelled_and_gone_on_with_like_a_folder(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(unfinished.KEY_VARIABLE)
    source = write_source(tmp_path / "data", 7)
    (source / "stage_2_train.csv").rename(source / "mine.csv")
    (source / "x.dcm.partial").write_bytes(b"half")
    remote = Store.open(f"{bucket}/second")
    for name in ("mine.csv", "x.dcm.partial", *(f"stage_2_train/ID_{number:09x}.dcm" for number in range(7))):
        remote.write(name, (source / name).read_bytes())
    label_file = f"{bucket}/second/mine.csv"
    flags = ShardConfig(f"{bucket}/second/", f"{bucket}/third", label_file, samples_per_shard=4, size=32)
    first = build.plan(flags)
    assert isinstance(first, build.BuildPlan)
    assert not task.run_task(first.tasks[0]).resumed
    again = build.plan(flags)
    assert isinstance(again, build.BuildPlan)
    assert again.build_digest == first.build_digest
    assert task.run_task(again.tasks[0]).resumed
    manifest, _ = build.run(again)
    assert (manifest.source_files, manifest.samples, manifest.rejected) == (8, 7, {"not_dicom": 1})
    assert manifest.label_counts["any"]["positive"] == 3
    assert Store.open(f"{bucket}/third").size(unfinished.KEY_FILE) is None
