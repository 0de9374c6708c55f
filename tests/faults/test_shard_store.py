"""Object stores and disks that fail: what is read is whole, what is visible is whole, and errors are clear."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hemodist.storage import local_files, retries, store
from hemodist.storage.store import Store, StoreError
from shards.building import build, unfinished
from shards.building.options import ShardConfig
from shards.inspect.verify import verify
from tests.support.dicom_files import KEY, content_of, write_source
from tests.support.proxy import Fault, Faulty, faulty_proxy
from tests.support.s3 import bucket_at, s3_process

CONTENT = bytes(range(256)) * 400
LARGE = 12 * 2**20
"""Bytes that pyarrow sends in parts."""

FAULTS: list[Fault] = ["500", "503", "cut", "short", "drop"]


@pytest.fixture(scope="module")
def proxy() -> Iterator[Faulty]:
    key = {unfinished.KEY_VARIABLE: KEY}
    with s3_process() as server, faulty_proxy(*server) as faulty, bucket_at(faulty.url, "faulty", **key):
        yield faulty


@pytest.fixture
def bucket(proxy: Faulty, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(retries, "WAITS", (0.01, 0.01))
    proxy.begin(lambda method, path, number: None)
    yield Store.open("s3://faulty/here")
    proxy.begin(lambda method, path, number: None)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_passes_is_tried_again_and_gives_the_very_bytes(proxy: Faulty, bucket: Store, fault: Fault) -> None:
    proxy.begin(lambda method, path, number: fault if number % 2 == 0 else None)
    bucket.write("small", CONTENT)
    assert bucket.read("small") == CONTENT
    assert ("small", len(CONTENT)) in bucket.list()
    assert len(proxy.failed) >= 3
    proxy.begin(lambda method, path, number: None)
    assert bucket.read("small") == CONTENT


def test_a_small_file_is_one_put_and_one_get(proxy: Faulty, bucket: Store) -> None:
    bucket.write("one", CONTENT)
    assert [method for method, _ in proxy.seen] == ["PUT", "HEAD"]
    proxy.begin(lambda method, path, number: None)
    assert bucket.read("one") == CONTENT
    assert [method for method, _ in proxy.seen] == ["HEAD", "GET"]


@pytest.mark.parametrize("end", [0x00, store._MARK, store._MARK ^ 0xFF])
def test_a_body_that_is_short_and_says_so_is_an_error_whatever_its_last_byte(
    proxy: Faulty, bucket: Store, end: int
) -> None:
    bucket.write("short", CONTENT + bytes([end]))
    assert bucket.read("short") == CONTENT + bytes([end])
    proxy.begin(lambda method, path, number: "short" if method == "GET" else None)
    with pytest.raises(StoreError, match="gave less than the 102401 bytes"):
        bucket.read("short")


def test_an_empty_file_is_written_and_read(bucket: Store) -> None:
    bucket.write("empty", b"")
    assert bucket.read("empty") == b""
    assert bucket.size("empty") == 0


@pytest.mark.parametrize("large", [False, True])
def test_a_write_that_fails_for_good_is_an_error_and_leaves_the_old_content(
    proxy: Faulty, bucket: Store, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    monkeypatch.setattr(retries, "WAITS", ())
    bucket.write("kept", CONTENT)
    # Of a large file the first part gets through, the second does not.
    second = "partNumber=2" if large else "kept"
    proxy.begin(lambda method, path, number: "503" if method == "PUT" and second in path else None)
    with pytest.raises(StoreError, match=r"cannot write s3://faulty/here/kept: .*SLOW_DOWN"):
        bucket.write("kept", bytes(2 * LARGE if large else 1000))
    proxy.begin(lambda method, path, number: None)
    assert bucket.read("kept") == CONTENT
    assert [name for name, _ in bucket.list() if name == "kept"] == ["kept"]


def test_a_store_that_keeps_less_than_it_was_given_shows_nothing_torn(
    bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Half:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def write(self, content: bytes) -> None:
            self.stream.write(content[: len(content) // 2])

        def close(self) -> None:
            self.stream.close()

    class HalfFileSystem:
        def __getattr__(self, name: str) -> Any:
            found = getattr(bucket.filesystem, name)
            return (lambda path: Half(found(path))) if name == "open_output_stream" else found

    with pytest.raises(StoreError, match="the store holds 51200 bytes of 102400"):
        Store(bucket.uri, bucket.root, HalfFileSystem()).write("torn", CONTENT)
    assert bucket.size("torn") is None


def test_what_stays_is_told_at_once(proxy: Faulty, bucket: Store) -> None:
    with pytest.raises(StoreError, match="cannot read s3://faulty/here/missing"):
        bucket.read("missing")
    assert len(proxy.seen) == 1
    with pytest.raises(StoreError, match=r"cannot write s3://nowhere/at/all.*NO_SUCH_BUCKET"):
        Store.open("s3://nowhere/at").write("all", b"x")


def test_a_data_set_made_through_a_failing_store_is_the_undisturbed_one(
    proxy: Faulty, bucket: Store, tmp_path: Path
) -> None:
    source = write_source(tmp_path / "data", 10, broken=1)
    for name, content in content_of(source).items():
        Store.open("s3://faulty/data").write(name, content)
    proxy.begin(lambda method, path, number: FAULTS[number // 3 % 5] if number % 3 == 0 else None)
    for where, places in {
        "out": (str(source), str(tmp_path / "out")),
        "s3": ("s3://faulty/data", "s3://faulty/out"),
    }.items():
        todo = build.plan(ShardConfig(*places, samples_per_shard=4, size=32))
        assert isinstance(todo, build.BuildPlan), where
        build.run(todo)
    assert {fault for _, fault in proxy.failed} == set(FAULTS)
    proxy.begin(lambda method, path, number: None)
    output = Store.open("s3://faulty/out")
    assert {name: output.read(name) for name, _ in output.list()} == content_of(tmp_path / "out")


def local(source: Path, output: Path) -> None:
    todo = build.plan(ShardConfig(str(source), str(output), samples_per_shard=4, size=32))
    if isinstance(todo, build.BuildPlan):
        build.run(todo)


def test_a_disk_that_is_full_at_any_write_leaves_only_whole_files_and_the_build_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(unfinished.KEY_VARIABLE, KEY)
    source = write_source(tmp_path / "data", 10, broken=1)
    local(source, tmp_path / "whole")
    whole = content_of(tmp_path / "whole")
    sync, failing = os.fsync, 0
    while True:
        calls = 0

        def full(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            if calls == failing + 1:  # noqa: B023 - each round has its own
                raise OSError(errno.ENOSPC, "No space left on device")
            sync(descriptor)

        output = tmp_path / f"out_{failing}"
        monkeypatch.setattr(os, "fsync", full)
        with contextlib.suppress(StoreError):
            local(source, output)
            break
        monkeypatch.setattr(os, "fsync", sync)
        shown = content_of(output)
        assert not [name for name in shown if name.endswith(local_files.PARTIAL_SUFFIX)]
        assert all(content == whole[name] for name, content in shown.items() if name in whole)
        local(source, output)
        assert content_of(output) == whole
        failing += 1
    assert failing > 15


def test_a_real_limit_of_the_file_system_leaves_the_old_content(tmp_path: Path) -> None:
    here = Store.open(tmp_path)
    here.write("x", b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(StoreError, match="File too large"):
            here.write("x", bytes(2**21))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert content_of(tmp_path) == {"x": b"old"}


@pytest.mark.parametrize("lasting", [False, True])
def test_a_read_error_is_tried_again_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lasting: bool
) -> None:
    monkeypatch.setenv(unfinished.KEY_VARIABLE, KEY)
    monkeypatch.setattr(retries, "WAITS", (0.01, 0.01))
    source = write_source(tmp_path / "data", 10)
    local(source, tmp_path / "whole")
    whole, tries, read = content_of(tmp_path / "whole"), 0, io.FileIO

    def bad(path: str) -> io.FileIO:
        nonlocal tries
        if Path(path).name == "ID_000000004.dcm":
            tries += 1
            if lasting or tries < 3:
                raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(io, "FileIO", bad)
    if lasting:
        with pytest.raises(StoreError, match=r"cannot read .*ID_000000004\.dcm: .*Input/output error"):
            local(source, tmp_path / "out")
        monkeypatch.setattr(io, "FileIO", read)
        assert not (tmp_path / "out" / "manifest.json").exists()
    local(source, tmp_path / "out")
    assert tries == 3
    assert content_of(tmp_path / "out") == whole
    assert not verify(Store.open(tmp_path / "out")).problems
