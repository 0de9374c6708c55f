from __future__ import annotations

import errno
import os

import pytest

from hemodist.storage import retries
from hemodist.storage.local_files import PARTIAL_SUFFIX
from hemodist.storage.store import Store, StoreError, join


def test_what_is_written_is_read_listed_and_deleted(tmp_path):
    store = Store.open(tmp_path / "root")
    store.write("a/b.bin", b"123")
    store.write("c.bin", b"")
    assert store.read("a/b.bin") == b"123"
    assert store.list() == [("a/b.bin", 3), ("c.bin", 0)]
    assert store.size("a/b.bin") == 3
    assert store.size("nothing") is None
    store.delete("a/b.bin")
    store.delete("a/b.bin")
    assert store.list() == [("c.bin", 0)]
    assert Store.open(tmp_path / "missing").list() == []


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch):
    store = Store.open(tmp_path)
    store.write("x", b"old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StoreError, match=r"x: .*No space left on device.*free space"):
        store.write("x", b"new")
    assert store.read("x") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_unfinished_files_are_not_listed(tmp_path):
    (tmp_path / f"x.1{PARTIAL_SUFFIX}").write_bytes(b"half")
    assert Store.open(tmp_path).list() == []


def test_errors_name_the_place(tmp_path):
    store = Store.open(tmp_path)
    with pytest.raises(StoreError, match=r"cannot read .*nothing"):
        store.read("nothing")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot write"):
        Store.open(tmp_path / "file").check_writable()
    with pytest.raises(StoreError, match="use a local path"):
        Store.open("ftpx://host/path")
    with pytest.raises(StoreError, match="AWS_ENDPOINT_URL"):
        Store.open("s3://bucket/prefix?endpoint_override=localhost:9000")


def test_joining_keeps_the_scheme():
    assert join("s3://bucket/", "a", "b") == "s3://bucket/a/b"
    assert join("runs", "x") == "runs/x"


def test_credentials_in_a_uri_are_refused_and_not_repeated():
    with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID") as caught:
        Store.open("s3://AKIAKEY:SECRETsecret@bucket/data")
    assert "SECRETsecret" not in str(caught.value)
    assert "AKIAKEY" not in str(caught.value)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x"])
def test_a_name_that_leads_out_of_the_root_is_refused(tmp_path, name):
    store = Store.open(tmp_path / "root")
    for action in (lambda: store.write(name, b"x"), lambda: store.read(name), lambda: store.delete(name)):
        with pytest.raises(StoreError, match="leads out of"):
            action()
    assert list(tmp_path.rglob("x")) == []


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (OSError(errno.EIO, "Input/output error"), 3),
        (OSError("AWS Error UNKNOWN (HTTP status -1) during ListObjectsV2"), 3),
        (OSError("AWS Error SLOW_DOWN during PutObject"), 1),  # pyarrow has tried for 6 s
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (FileNotFoundError(errno.ENOENT, "No such file"), 1),
    ],
)
def test_what_may_pass_and_nobody_has_tried_again_is_tried_again(monkeypatch, error, tries):
    monkeypatch.setattr(retries, "WAITS", (0.0, 0.0))
    calls = []

    def fail():
        calls.append(1)
        raise error

    with pytest.raises(OSError, match=str(error.args[-1]).split(" ")[0]):
        retries.with_retries(fail)
    assert len(calls) == tries
