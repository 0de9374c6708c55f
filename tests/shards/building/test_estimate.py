from __future__ import annotations

from pathlib import Path

from shards.building import build, estimate
from tests.support.builds import config, make
from tests.support.dicom_files import content_of


def test_a_dry_run_writes_nothing_and_tells_what_would_come_out(source: Path, tmp_path: Path) -> None:
    todo = build.plan(config(source, tmp_path / "out", dry_run=True))
    assert isinstance(todo, build.BuildPlan)
    told = estimate.estimate(todo, cpus=4, count=25)
    assert not content_of(tmp_path)
    assert not (tmp_path / "out").exists()
    assert told["samples"] == "about 23 of 25 files"
    assert told["shards"] == 4
    assert told["expected rejections"] == {"wrong_modality": "about 2"}
    manifest = make(source, tmp_path / "out")
    written = sum(shard.bytes for shard in manifest.shards) - 4 * 1024
    assert told["bytes"] == f"about {written:,}"
