from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hemodist.cluster.session import ClusterInfo, cluster, map_tasks
from hemodist.dataset.manifest import read_manifest
from hemodist.errors import UserError
from hemodist.storage.store import Store
from jobs import shard
from shards.building import build, unfinished
from shards.building.options import ShardConfig
from shards.inspect.verify import verify
from tests.support.dicom_files import KEY, content_of, dicom_file, write_source

ROOT = Path(__file__).resolve().parents[2]


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setenv(unfinished.KEY_VARIABLE, KEY)
    monkeypatch.setattr(sys, "argv", ["shard.py", *arguments])
    return shard.main()


def test_one_two_and_four_ray_workers_write_the_bytes_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source(tmp_path / "data", 46, broken=2)
    flags = ["--source", str(source), "--samples-per-shard", "4", "--size", "32", "--max-rejected-fraction", "0.1"]
    assert run_here(monkeypatch, *flags, "--output", str(tmp_path / "here"), "--workers", "0") == 0
    with cluster(4):
        for workers in (1, 2, 4):
            todo = build.plan(ShardConfig(str(source), str(tmp_path / str(workers)), samples_per_shard=4, size=32))
            some = {"in_flight": lambda workers=workers: workers, "memory": 2**20}
            build.run(todo, lambda run, tasks, some=some: (done for _, done in map_tasks(run, tasks, **some)))
    expected = content_of(tmp_path / "here")
    for workers in ("1", "2", "4"):
        assert content_of(tmp_path / workers) == expected


@pytest.mark.parametrize(("joined", "flags", "most"), [
    (True, ["--workers", "3"], 3), (False, ["--workers", "3"], 6), (True, [], 10),
])  # fmt: skip
def test_a_joined_cluster_runs_no_more_tasks_at_a_time_than_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, joined: bool, flags: list[str], most: int
) -> None:
    @contextlib.contextmanager
    def known(cpus: int | None = None) -> Iterator[ClusterInfo]:
        yield ClusterInfo(5, 0, joined)

    def mapper(run: Any, tasks: Any, *, in_flight: Any, memory: int) -> Iterator[tuple[int, Any]]:
        assert in_flight() == most
        assert memory == 600 * 2**20
        return enumerate(map(run, tasks))

    for name, stand_in in {
        "cluster": known, "map_tasks": mapper, "cpus_now": lambda: 5, "largest_memory": lambda: 2**40
    }.items():  # fmt: skip
        monkeypatch.setattr(f"hemodist.cluster.session.{name}", stand_in)
    source = write_source(tmp_path / "data", 6)
    assert (
        run_here(monkeypatch, "--source", str(source), "--size", "32", "--output", str(tmp_path / "out"), *flags) == 0
    )


def test_more_slices_a_shard_than_a_node_can_hold_are_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source(tmp_path / "data", 4)
    flags = ["--samples-per-shard", str(2**20), "--size", "2048", "--encoding", "png", "--workers", "1"]
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=r"reserves .* GiB of memory, and no node gives more than .* GiB"):
        run_here(monkeypatch, "--source", str(source), "--output", str(tmp_path / "out"), *flags)
    assert not list((tmp_path / "out").rglob("*.tar"))


def test_what_is_finished_is_told_without_starting_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_source(tmp_path / "data", 6)
    flags = ["--source", str(source), "--size", "32", "--output", str(tmp_path / "out")]
    assert run_here(monkeypatch, *flags, "--workers", "0") == 0
    monkeypatch.setattr("hemodist.cluster.session.cluster", None)  # Starting it would be a TypeError.
    assert run_here(monkeypatch, *flags) == 0
    assert "finished already" in " ".join(capsys.readouterr().out.split())


def test_real_files_end_with_the_code_for_too_many_rejections(
    shared_dicom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--source", str(shared_dicom), "--output", str(tmp_path / "out"), "--workers", "0"]
    assert run_here(monkeypatch, *arguments) == build.EXIT_TOO_MANY_REJECTED
    assert "of the files were faulty, 1.00% are allowed" in capsys.readouterr().err
    manifest = read_manifest(Store.open(tmp_path / "out"))
    files = [path for path in shared_dicom.rglob("*") if path.is_file()]
    assert manifest.source_files == len(files) == manifest.samples + sum(manifest.rejected.values())
    assert (manifest.samples, manifest.duplicates) == (28 + 7, 5)
    assert {reason for reason, count in manifest.rejected.items() if reason != "not_dicom"} == {
        "truncated_pixels", "colour", "bad_value", "missing_transfer_syntax",
        "damaged_start", "no_image", "undecodable_syntax",
    }  # fmt: skip
    assert manifest.label_counts["any"] == {"positive": 0, "negative": 0, "unknown": 35}
    assert not verify(Store.open(tmp_path / "out")).problems


def test_rejections_within_the_limit_end_with_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_source(tmp_path / "data", 9)
    (source / "cut.dcm").write_bytes(dicom_file()[:400])
    arguments = ["--source", str(source), "--workers", "0", "--size", "32", "--output"]
    assert run_here(monkeypatch, *arguments, str(tmp_path / "strict")) == 3
    assert run_here(monkeypatch, *arguments, str(tmp_path / "lenient"), "--max-rejected-fraction", "0.1") == 0


def test_too_many_rejections_stay_a_failure_when_the_command_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_source(tmp_path / "data", 9)
    (source / "cut.dcm").write_bytes(dicom_file()[:400])
    arguments = ["--source", str(source), "--workers", "0", "--size", "32", "--output", str(tmp_path / "out")]
    told = []
    for _ in range(2):
        assert run_here(monkeypatch, *arguments) == build.EXIT_TOO_MANY_REJECTED
        told.append(capsys.readouterr().err)
    assert told[0] == told[1]
    assert "10.00% of the files were faulty" in told[1]
    assert run_here(monkeypatch, *arguments, "--max-rejected-fraction", "0.1") == 0


def test_a_summary_that_a_killed_driver_did_not_log_is_logged_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    source = write_source(tmp_path / "data", 6)
    arguments = ["--source", str(source), "--workers", "0", "--size", "32", "--output", str(tmp_path / "out")]
    assert run_here(monkeypatch, *arguments) == 0
    assert run_here(monkeypatch, *arguments, "--track") == 0
    (logged,) = (tmp_path / "wandb").rglob("run-*.wandb")
    assert b"source_sha256" in logged.read_bytes()


def test_the_summary_is_a_wandb_run_on_request_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    source = write_source(tmp_path / "data", 6)
    arguments = ["--source", str(source), "--workers", "0", "--size", "32", "--output"]
    assert run_here(monkeypatch, *arguments, str(tmp_path / "silent")) == 0
    assert not (tmp_path / "wandb").exists()
    assert run_here(monkeypatch, *arguments, str(tmp_path / "told"), "--track") == 0
    (logged,) = (tmp_path / "wandb").rglob("run-*.wandb")
    content = logged.read_bytes()
    assert b"slices/s" in content
    assert b"source_sha256" in content
    assert KEY.encode() not in content
    assert content_of(tmp_path / "told") == content_of(tmp_path / "silent")


def test_an_error_in_a_ray_task_is_one_line_and_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(unfinished.KEY_VARIABLE, KEY)
    source = write_source(tmp_path / "data", 4)
    build.plan(ShardConfig(str(source), str(tmp_path / "out"), size=32))
    (tmp_path / "out" / "shards").write_bytes(b"in the way")
    command = [sys.executable, str(ROOT / "jobs" / "shard.py"), "--workers", "1", "--size", "32"]
    done = subprocess.run(
        [*command, "--source", str(source), "--output", str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot write ")
    assert "check the path" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_source_is_told_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hemodist.cluster.session.cluster", None)  # Starting it would be a TypeError.
    with pytest.raises(UserError, match="does not exist"):
        run_here(monkeypatch, "--source", str(tmp_path / "none"), "--output", str(tmp_path / "out"))
