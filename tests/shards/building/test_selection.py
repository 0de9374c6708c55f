from __future__ import annotations

from pathlib import Path

import pytest

from hemodist.dataset.dataset import DataSet
from hemodist.errors import ConfigError
from hemodist.storage.store import Store
from shards.building import build
from shards.inspect import rejections
from tests.support.builds import config, make


def test_balanced_takes_every_positive_and_as_many_negatives(source: Path, tmp_path: Path) -> None:
    manifest = make(source, tmp_path / "out", selection="balanced")
    assert manifest.label_counts["any"] == {"positive": 8, "negative": 8, "unknown": 0}
    assert manifest.rejected == {"not_selected": 9}
    assert manifest.source_files == 25
    assert rejections.faulty(rejections.read(Store.open(tmp_path / "out"))) == 0


def test_a_list_takes_exactly_its_ids(source: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("ID_000000003\n\nID_000000004\nID_missing\n")
    todo = build.plan(config(source, tmp_path / "out", selection="list", ids=str(ids)))
    assert isinstance(todo, build.BuildPlan)
    assert todo.facts["listed ids without a file"] == 1
    build.run(todo)
    index = DataSet.open(str(tmp_path / "out")).index
    assert sorted(index.column("key").to_pylist()) == ["ID_000000003", "ID_000000004"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_saved_by_any_editor_loses_no_id(source: Path, tmp_path: Path, encoding: str) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_bytes('ID_000000003\r\n ID_000000004 \r\n"ID_000000005"\r\n\r\n'.encode(encoding))
    make(source, tmp_path / "out", selection="list", ids=str(ids))
    index = DataSet.open(str(tmp_path / "out")).index
    assert sorted(index.column("key").to_pylist()) == [f"ID_{number:09x}" for number in (3, 4, 5)]


@pytest.mark.parametrize(
    ("content", "says"), [(b"\xff\xfeI", "UTF-16"), (b"ID_x\n", "none of the 1 ids"), (None, "exist")]
)
def test_a_list_that_names_no_file_is_refused(source: Path, tmp_path: Path, content: bytes | None, says: str) -> None:
    ids = tmp_path / "ids.txt"
    if content is not None:
        ids.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        build.plan(config(source, tmp_path / "out", selection="list", ids=str(ids)))
    assert not (tmp_path / "out").exists()
