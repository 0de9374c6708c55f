from __future__ import annotations

from pathlib import Path

from hemodist.dataset.dataset import DataSet
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
