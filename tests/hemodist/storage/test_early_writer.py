from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from hemodist.storage import early_writer
from hemodist.storage.early_writer import EarlyWriter
from hemodist.storage.store import Store

CONTENT = random.Random(0).randbytes(10_000)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_writer, "PIECE", 1000)


def offer_all(writer: EarlyWriter, step: int = 300) -> None:
    growing = bytearray()
    for start in range(0, len(CONTENT), step):
        growing += CONTENT[start : start + step]
        with memoryview(growing) as content:
            writer.offer(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("step", [100, 999, 1000, 3000, 10_000])
def test_what_is_written_ahead_is_the_whole_file_and_shows_only_when_finished(tmp_path: Path, step: int) -> None:
    with EarlyWriter(Store.open(tmp_path), "a/b.tar") as writer:
        offer_all(writer, step)
        assert not (tmp_path / "a" / "b.tar").exists()
        assert len(names(tmp_path)) == 1  # something is on its way
        writer.finish(memoryview(CONTENT))
        assert names(tmp_path) == ["b.tar"]
    assert (tmp_path / "a" / "b.tar").read_bytes() == CONTENT
    assert names(tmp_path) == ["b.tar"]


def test_an_existing_file_is_replaced_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"old")
    with EarlyWriter(Store.open(tmp_path), "b") as writer:
        offer_all(writer)
        assert (tmp_path / "b").read_bytes() == b"old"
    assert names(tmp_path) == ["b"]
    assert (tmp_path / "b").read_bytes() == b"old"


@pytest.mark.parametrize("call", ["write", "posix_fadvise", "fsync", "open"])
def test_a_fault_on_the_way_costs_the_head_start_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    original, calls = getattr(os, call), 0

    def faulty(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == (1 if call in ("open", "fsync") else 3):
            raise OSError(errno.EIO, "Input/output error")
        return original(*args)

    monkeypatch.setattr(os, call, faulty)
    with EarlyWriter(Store.open(tmp_path), "b") as writer:
        offer_all(writer)
        writer.finish(memoryview(CONTENT))
    assert calls >= (1 if call in ("open", "fsync") else 3)
    assert (tmp_path / "b").read_bytes() == CONTENT
    assert names(tmp_path) == ["b"]


def test_a_file_that_is_taken_away_on_the_way_is_written_again(tmp_path: Path) -> None:
    with EarlyWriter(Store.open(tmp_path), "b") as writer:
        offer_all(writer)
        next(tmp_path.glob("*.partial")).unlink()
        writer.finish(memoryview(CONTENT))
    assert (tmp_path / "b").read_bytes() == CONTENT
    assert names(tmp_path) == ["b"]


def test_nothing_is_left_when_the_maker_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with EarlyWriter(Store.open(tmp_path), "b") as writer:
            offer_all(writer)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(tmp_path) == []


def test_a_store_that_is_not_local_gets_the_file_in_one_piece(tmp_path: Path) -> None:
    remote = Store("remote", "", pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()))
    with EarlyWriter(remote, "b") as writer:
        offer_all(writer)
        assert names(tmp_path) == []
        writer.finish(memoryview(CONTENT))
    assert (tmp_path / "b").read_bytes() == CONTENT
