from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hemodist.dataset.dataset import DataSet
from hemodist.dataset.manifest import DatasetError
from hemodist.storage.local_files import PARTIAL_SUFFIX
from hemodist.storage.store import Store
from shards.__main__ import main
from shards.building import build, unfinished
from shards.building.options import ShardConfig
from shards.inspect.verify import verify
from shards.packing import record
from tests.support.dicom_files import KEY, write_source


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    write_source(folder / "data", 12, broken=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(unfinished.KEY_VARIABLE, KEY)
        todo = build.plan(ShardConfig(str(folder / "data"), str(folder / "out"), samples_per_shard=5, size=32))
        assert isinstance(todo, build.BuildPlan)
        build.run(todo)
    return folder / "out"


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copy"))


def test_a_sound_data_set_has_no_problem(sound: Path) -> None:
    report = verify(Store.open(sound))
    assert report.problems == []
    assert (report.shards, report.samples) == (3, 12)
    assert verify(Store.open(sound), quick=True).bytes == 0


def first_tar(copy: Path) -> Path:
    return copy / "shards" / "000000.tar"


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def flip_image(copy: Path) -> None:
    flip(first_tar(copy), int(DataSet.open(str(copy)).column("offset")[0]) + 5)


def flip_header(copy: Path) -> None:
    flip(first_tar(copy), 0)


def cut(copy: Path) -> None:
    first_tar(copy).write_bytes(first_tar(copy).read_bytes()[:-512])


def remove_tar(copy: Path) -> None:
    first_tar(copy).unlink()


def remove_index(copy: Path) -> None:
    first_tar(copy).with_suffix(".idx").unlink()


def change_index(copy: Path) -> None:
    path = first_tar(copy).with_suffix(".idx")
    path.write_text(path.read_text().replace("jpg 512", "jpg 513"))


def change_parquet(copy: Path) -> None:
    table = pq.read_table(copy / "index.parquet")
    flipped = [1 - value for value in table.column("any").to_pylist()]
    column = table.schema.get_field_index("any")
    table = table.set_column(column, table.schema.field(column), pa.array(flipped, pa.int8()))
    (copy / "index.parquet").write_bytes(record.to_parquet(table))


def change_rejected(copy: Path) -> None:
    table = pq.read_table(copy / "rejected.parquet")
    (copy / "rejected.parquet").write_bytes(record.to_parquet(table.slice(1)))


def change_count(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["label_counts"]["any"]["positive"] += 1
    (copy / "manifest.json").write_text(json.dumps(manifest))


def change_config(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["config"]["size"] = 64
    (copy / "manifest.json").write_text(json.dumps(manifest))


def leave_record(copy: Path) -> None:
    (copy / "records").mkdir()
    (copy / "records" / "000000.record").write_bytes(b"x")


def leave_partial(copy: Path) -> None:
    (copy / "shards" / f"000000.tar.0a{PARTIAL_SUFFIX}").write_bytes(b"x")


def cut_manifest(copy: Path) -> None:
    (copy / "manifest.json").write_bytes((copy / "manifest.json").read_bytes()[:-100])


def rename_setting(copy: Path) -> None:
    (copy / "manifest.json").write_text((copy / "manifest.json").read_text().replace('"encoding"', '"encodinh"'))


DAMAGES: dict[str, tuple[Callable[[Path], None], str, bool]] = {
    # what is done, what must be named, whether the quick check sees it
    "image": (flip_image, "does not match its crc32", False),
    "header": (flip_header, "checksum", False),
    "cut": (cut, "the manifest says", True),
    "no tar": (remove_tar, "shards/000000.tar: missing", True),
    "no index": (remove_index, "shards/000000.idx: missing", True),
    "changed index": (change_index, "shards/000000.idx: does not list", False),
    "labels": (change_parquet, "label counts", True),
    "rejections": (change_rejected, "rejected.parquet", True),
    "count": (change_count, "label counts", True),
    "config": (change_config, "config_digest", True),
    "record": (leave_record, "records/000000.record: does not belong", True),
    "partial": (leave_partial, ".partial: does not belong", True),
    "manifest": (cut_manifest, "is not what hemodist writes", True),
    "setting": (rename_setting, "is not what hemodist writes", True),
}


@pytest.mark.parametrize(("damage", "named", "quick"), DAMAGES.values(), ids=DAMAGES.keys())
def test_every_damage_is_named(copy: Path, damage: Callable[[Path], None], named: str, quick: bool) -> None:
    damage(copy)
    assert any(named in problem for problem in verify(Store.open(copy)).problems)
    assert any(named in problem for problem in verify(Store.open(copy), quick=True).problems) == quick
    assert main(["verify", str(copy)]) == 1


def test_the_index_of_an_empty_shard_is_checked_too(tmp_path: Path) -> None:
    write_source(tmp_path / "data", 1, broken=3)
    (tmp_path / "data" / "stage_2_train" / f"ID_{0:09x}.dcm").unlink()
    todo = build.plan(ShardConfig(str(tmp_path / "data"), str(tmp_path / "out"), size=32, labels="no"))
    assert isinstance(todo, build.BuildPlan)
    build.run(todo)
    assert verify(Store.open(tmp_path / "out")).problems == []
    (tmp_path / "out" / "shards" / "000000.idx").write_text("v1.2 7\n")
    assert any("does not list" in problem for problem in verify(Store.open(tmp_path / "out")).problems)


def test_any_damaged_byte_of_the_manifest_is_a_problem_and_no_usage_error(copy: Path) -> None:
    path = copy / "manifest.json"
    whole = path.read_bytes()
    for position in range(0, len(whole), 41):
        for byte in (whole[position] ^ 1, 255):
            path.write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
            blank = whole[position : position + 1].isspace() and bytes([byte]).isspace()
            assert blank or verify(Store.open(copy)).problems, position
    path.write_bytes(b"")
    assert main(["verify", str(copy)]) == 1


def test_any_flipped_byte_of_any_shard_is_found(copy: Path) -> None:
    tar = first_tar(copy)
    whole = tar.read_bytes()
    for position in range(0, len(whole), 997):
        flip(tar, position)
        assert verify(Store.open(copy)).problems, position
        tar.write_bytes(whole)


def test_the_command_says_sound_and_exits_with_0(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(sound)]) == 0
    assert main(["verify", str(sound), "--quick"]) == 0
    said = capsys.readouterr().out
    assert "sound as stored, but 3 remarks on series above; 3 shards, 12 samples" in said
    assert said.count("3 of 4 slices where another one is") == 6


def test_an_unfinished_data_set_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="unfinished"):
        verify(Store.open(tmp_path))
    for tool in ("verify", "show"):
        with pytest.raises(DatasetError, match="unfinished"):
            main([tool, str(tmp_path)])


def test_the_phantom_command_writes_a_source_for_the_sharder(tmp_path: Path) -> None:
    assert main(["phantom", str(tmp_path / "data"), "--slices", "20", "--size", "64", "--workers", "1"]) == 0
    todo = build.plan(ShardConfig(str(tmp_path / "data"), str(tmp_path / "out"), size=32))
    assert isinstance(todo, build.BuildPlan)
    manifest, _ = build.run(todo)
    assert manifest.samples == 20
    assert manifest.label_counts["any"]["unknown"] == 0
