from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest

from hemodist.errors import ConfigError
from hemodist.storage import text_file

TEXT = "ID,Label\nID_ä_any,1\n"


def zip_of(path: Path, **files: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("packed", ["plain", "zip", "gz"])
def test_every_packing_and_encoding_gives_the_same_text(tmp_path: Path, encoding: str, packed: str) -> None:
    path, content = tmp_path / "file.csv", TEXT.encode(encoding)
    if packed == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("folder/", "")
            archive.writestr("__MACOSX/folder/._file.csv", "x")
            archive.writestr("folder/file.csv", content)
    else:
        path.write_bytes(gzip.compress(content) if packed == "gz" else content)
    assert text_file.read(str(path), "the file").decode() == TEXT


def test_a_mark_of_utf_16_may_be_of_either_order(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"\xfe\xff" + TEXT.encode("utf-16-be"))
    assert text_file.read(str(tmp_path / "big"), "the file").decode() == TEXT


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match=r"the file .* does not exist"):
            text_file.read(str(path), "the file")


def test_a_zip_of_several_files_or_none_is_refused(tmp_path: Path) -> None:
    for path in (zip_of(tmp_path / "two.zip", a="x", b="y"), zip_of(tmp_path / "mac.zip", **{"__MACOSX/x": "y"})):
        with pytest.raises(ConfigError, match=r"holds [02] files, not one; unpack it"):
            text_file.read(str(path), "the file")


def test_what_cannot_be_unpacked_or_is_no_text_is_refused(tmp_path: Path) -> None:
    whole = zip_of(tmp_path / "whole.zip", a=TEXT * 99).read_bytes()
    protected = whole.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")
    broken = whole[:40] + bytes(20) + whole[60:]
    packed = gzip.compress(TEXT.encode() * 99)
    for content in (whole[:50], protected, broken, packed[:40], packed[:20] + bytes(8) + packed[28:]):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ConfigError, match=r"the file .* cannot be unpacked"):
            text_file.read(str(tmp_path / "bad"), "the file")
    for content in (TEXT.encode("latin-1"), b"\xff\xfe\x00"):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ConfigError, match=r"the file .* is not text in UTF-8 or UTF-16"):
            text_file.read(str(tmp_path / "bad"), "the file")


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_file, "MAX_BYTES", 3 * 2**20)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(2**23)))
    (tmp_path / "large").write_bytes(bytes(2**22))
    for path in (tmp_path / "bomb.gz", tmp_path / "large"):
        with pytest.raises(ConfigError, match="more than 3,145,728 bytes"):
            text_file.read(str(path), "the file")
