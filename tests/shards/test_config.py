from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hemodist.errors import ConfigError
from hemodist.store import StoreError
from shards import build
from shards.config import ShardConfig
from tests.shards.builds import config
from tests.shards.files import content_of


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "missing"}, "is not a folder"),
        ({"size": 0}, "size is 0"),
        ({"windows": ("brain", "bone")}, "2 windows"),
        ({"quality": 101}, "quality is 101"),
        ({"selection": "list"}, "belong together"),
        ({"labels": "missing.csv"}, "does not exist"),
        ({"key_file": "missing"}, "does not exist"),
        ({"max_rejected_fraction": 2.0}, "share from 0 to 1"),
        ({"workers": -1}, "workers is -1"),
    ],
)
def test_what_cannot_be_used_is_told_before_anything_is_written(
    source: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    settings: dict[str, Any] = {"source": str(source), "output": str(tmp_path / "out")} | changes
    for name in ("source", "labels", "key_file"):
        if str(settings.get(name)).startswith("missing"):
            settings[name] = str(tmp_path / "missing")
    with pytest.raises(ConfigError, match=message):
        build.plan(ShardConfig(**settings))
    assert not content_of(tmp_path)


def test_an_output_in_the_source_or_of_something_else_is_refused(source: Path, tmp_path: Path) -> None:
    for output in (source, source / "stage_2_train" / "out"):
        with pytest.raises(ConfigError, match="lies in the source"):
            build.plan(config(source, output))
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no data set"):
        build.plan(config(source, tmp_path))
    assert content_of(tmp_path) == {"thesis.txt": b"mine"}


def test_an_output_that_cannot_be_written_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot"):
        build.plan(config(source, tmp_path / "file" / "out"))


def test_an_empty_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(ConfigError, match="no file below"):
        build.plan(config(tmp_path / "data", tmp_path / "out"))
