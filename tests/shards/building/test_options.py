from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hemodist.errors import ConfigError
from hemodist.storage.store import StoreError
from shards.building import build
from shards.building.options import ShardConfig, check_memory, task_memory
from tests.support.builds import config
from tests.support.dicom_files import content_of


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "missing"}, "does not exist"),
        ({"size": 0}, "size 0 is out of range"),
        ({"windows": ("brain", "bone")}, "2 windows"),
        ({"quality": 101}, "quality 101 is out of range"),
        ({"selection": "list"}, "belong together"),
        ({"labels": "missing.csv"}, "does not exist"),
        ({"key_file": "missing"}, "does not exist"),
        ({"max_rejected_fraction": 2.0}, "is out of range; use 0 to 1"),
        ({"workers": -1}, "workers -1 is out of range"),
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


def test_a_task_reserves_what_its_tar_needs_while_its_buffer_doubles(tmp_path: Path) -> None:
    few, many = (config(tmp_path, tmp_path, size=256, samples_per_shard=count) for count in (1024, 20_000))
    assert task_memory(few) == 600 * 2**20
    assert task_memory(many) > 300 * 10**6 + 2 * 20_000 * 33_000
    lossless = config(tmp_path, tmp_path, size=512, samples_per_shard=1024, encoding="png")
    assert task_memory(lossless) > 2 * 1024 * 512 * 512 * 3


def test_a_task_that_no_node_can_hold_is_an_error_with_the_numbers(tmp_path: Path) -> None:
    many = config(tmp_path, tmp_path, size=256, samples_per_shard=2**20)
    with pytest.raises(ConfigError, match=r"1048576 slices of 256 x 256 reserves 9\d\.\d GiB .* more than 2\.0 GiB"):
        check_memory(many, 2 * 2**30)
    check_memory(many, 200 * 2**30)
    check_memory(many, None)
