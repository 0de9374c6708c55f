from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from nvidia.dali import fn, pipeline_def
from PIL import Image

from shards.packing.tar import MAX_NAME, Member, TarError, TarWriter, index_file, read_members, split_name

CONTENTS = st.lists(st.binary(max_size=1500), max_size=6)


def pack(contents: list[bytes]) -> tuple[bytes, list[Member]]:
    writer = TarWriter()
    for number, content in enumerate(contents):
        writer.add(f"{number}.bin", content)
    return bytes(writer.finish()[0]), writer.members


@given(CONTENTS)
def test_pythons_tarfile_reads_what_is_written(contents: list[bytes]) -> None:
    content, members = pack(contents)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        found = [(entry.name, entry.offset_data, archive.extractfile(entry).read()) for entry in archive]  # type: ignore[union-attr]
        facts = {(entry.mtime, entry.uid, entry.gid, entry.mode, entry.uname) for entry in archive.getmembers()}
    assert found == [(f"{n}.bin", members[n].offset, data) for n, data in enumerate(contents)]
    assert facts <= {(0, 0, 0, 0o644, "")}


@given(CONTENTS)
def test_members_are_found_again_with_their_bytes(contents: list[bytes]) -> None:
    content, members = pack(contents)
    assert list(read_members(content)) == members
    assert [content[m.offset : m.offset + m.size] for m in members] == contents


def test_a_damaged_header_or_end_is_told() -> None:
    content, _ = pack([b"abc", b"def"])
    for damaged in (content[:512], content[: 3 * 512], b"x" + content[1:], content[:130] + b"9" + content[131:]):
        with pytest.raises(TarError):
            list(read_members(damaged))


def test_names_and_sizes_beyond_a_header_are_refused() -> None:
    writer = TarWriter()
    writer.add("n" * MAX_NAME, b"")
    for name in ("n" * (MAX_NAME + 1), "ü.jpg"):
        with pytest.raises(TarError):
            writer.add(name, b"")


def test_keys_end_at_the_first_dot_of_the_base_name() -> None:
    assert split_name("a/b.c/d.e.f") == ("a/b.c/d", "e.f")


def images(count: int) -> list[bytes]:
    encoded = []
    for number in range(count):
        buffer = io.BytesIO()
        Image.fromarray(np.full((16, 16, 3), 10 * number, np.uint8)).save(buffer, "JPEG", quality=95)
        encoded.append(buffer.getvalue())
    return encoded


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    writer = TarWriter()
    for number, image in enumerate(images(5)):
        writer.add(f"folder/ID_{number}.jpg", image)
        writer.add(f"folder/ID_{number}.json", b'{"number": %d}' % number)
    (tmp_path / "000000.tar").write_bytes(writer.finish()[0])
    (tmp_path / "000000.idx").write_bytes(index_file(writer.members))
    return tmp_path / "000000.tar"


def test_the_webdataset_library_reads_the_shard(shard: Path) -> None:
    found = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    assert [sample["__key__"] for sample in found] == [f"folder/ID_{number}" for number in range(5)]
    assert [sample["jpg"] for sample in found] == images(5)
    assert found[3]["json"] == b'{"number": 3}'


def test_dalis_webdataset_reader_reads_the_shard_by_its_index(shard: Path) -> None:
    @pipeline_def(batch_size=5, num_threads=1, device_id=None)
    def reader():  # type: ignore[no-untyped-def]
        return tuple(
            fn.readers.webdataset(paths=[str(shard)], index_paths=[str(shard.with_suffix(".idx"))], ext=["jpg", "json"])
        )

    pipe = reader()
    pipe.build()
    jpgs, jsons = pipe.run()
    assert [jpgs.at(number).tobytes() for number in range(5)] == images(5)
    assert [jsons.at(number).tobytes() for number in range(5)] == [b'{"number": %d}' % n for n in range(5)]
