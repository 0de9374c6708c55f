from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hemodist.errors import ConfigError, UserError
from hemodist.storage.store import Store, StoreError
from shards.building import build, unfinished
from shards.inspect.verify import verify
from shards.packing import record, versions
from shards.packing.task import TaskResult, run_task
from tests.support.builds import config, make
from tests.support.dicom_files import KEY, content_of, write_source

ROOT = Path(__file__).resolve().parents[3]


class Killed(BaseException):
    """As sudden as SIGKILL: nothing catches it."""


@pytest.mark.parametrize("after", [False, True], ids=["before the rename", "after the rename"])
def test_a_run_killed_at_any_write_goes_on_to_the_same_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    make(source, tmp_path / "undisturbed")
    expected = content_of(tmp_path / "undisturbed")
    original = Store.write
    writes = 0
    dies_at = 0

    def dying(self: Store, name: str, content: bytes | memoryview) -> None:
        nonlocal writes
        writes += 1
        if writes == dies_at:
            if after:
                original(self, name, content)
            else:
                self.local(name).parent.mkdir(parents=True, exist_ok=True)
                self.local(f"{name}.0.partial").write_bytes(bytes(content)[: len(content) // 2])
            raise Killed
        original(self, name, content)

    monkeypatch.setattr(Store, "write", dying)
    survived = False
    while not survived:
        dies_at, writes = dies_at + 1, 0
        output = tmp_path / f"out_{dies_at}"
        try:
            make(source, output)
            survived = True
        except Killed:
            assert not (output / "manifest.json").exists() or after
            writes = -1000
            make(source, output)
        assert content_of(output) == expected, dies_at
    assert dies_at > 3 * 4 + 3


def test_a_resumed_run_makes_only_what_is_missing_or_damaged(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    todo = build.plan(config(source, output))
    assert isinstance(todo, build.BuildPlan)
    for task in todo.tasks:
        run_task(task)
    tar = output / "shards" / "000001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:700] + b"x" + whole[701:])
    (output / "shards" / "000002.idx").unlink()
    (output / "records" / "000003.record").write_bytes(b"PAR1")
    results: list[TaskResult] = []
    again = build.plan(config(source, output))
    assert isinstance(again, build.BuildPlan)
    build.run(again, None, results.append)
    assert [result.resumed for result in results] == [True, False, False, False]
    assert tar.read_bytes() == whole
    assert not verify(Store.open(output)).problems


def test_a_damaged_record_is_no_record_whichever_byte_is_wrong(source: Path, tmp_path: Path) -> None:
    todo = build.plan(config(source, tmp_path / "out"))
    assert isinstance(todo, build.BuildPlan)
    task = todo.tasks[0]
    run_task(task)
    path = tmp_path / "out" / record.name(0)
    whole = path.read_bytes()
    assert record.load(todo.output, 0, task.build_digest, task.files) is not None
    for at in range(0, len(whole), 13):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        assert record.load(todo.output, 0, task.build_digest, task.files) is None, at
    for left in (0, 1, 31, 32, 33, len(whole) - 1):
        path.write_bytes(whole[:left])
        assert record.load(todo.output, 0, task.build_digest, task.files) is None, left
    assert not run_task(task).resumed
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"size": 48}, "size was 32, is 48"),
        ({"windows": ("bone",)}, "windows was"),
        ({"labels": None, "selection": "balanced"}, "selection was"),
        ({"samples_per_shard": 5}, "samples_per_shard was 8, is 5"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_a_changed_configuration_is_an_error_that_names_it(
    source: Path, tmp_path: Path, changes: dict[str, Any], named: str, finished: bool
) -> None:
    todo = build.plan(config(source, tmp_path / "out"))
    assert isinstance(todo, build.BuildPlan)
    if finished:
        build.run(todo)
    before = content_of(tmp_path / "out")
    with pytest.raises(ConfigError, match=named):
        build.plan(config(source, tmp_path / "out", **changes))
    assert content_of(tmp_path / "out") == before


def test_a_changed_source_or_key_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_source(tmp_path / "data", 4)
    build.plan(config(source, tmp_path / "out"))
    monkeypatch.setenv(unfinished.KEY_VARIABLE, KEY[::-1])
    with pytest.raises(ConfigError, match="another pseudonym key"):
        build.plan(config(source, tmp_path / "out"))
    monkeypatch.setenv(unfinished.KEY_VARIABLE, KEY)
    (source / "stage_2_train" / "more.dcm").write_bytes(b"x")
    with pytest.raises(ConfigError, match="source_files was 4, is 5"):
        build.plan(config(source, tmp_path / "out"))


def test_a_task_is_made_again_when_a_source_file_has_changed_but_not_its_size(tmp_path: Path) -> None:
    source = write_source(tmp_path / "data", 20)
    todo = build.plan(config(source, tmp_path / "out"))
    assert isinstance(todo, build.BuildPlan)
    for task in todo.tasks:
        run_task(task)
    path = source / todo.tasks[1].files[3].path
    before = path.stat()
    path.write_bytes(path.read_bytes()[:-9] + bytes(9))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    results: list[TaskResult] = []
    again = build.plan(config(source, tmp_path / "out"))
    assert isinstance(again, build.BuildPlan)
    build.run(again, None, results.append)
    assert [result.resumed for result in results] == [True, False, True]
    os.utime(path, ns=(0, 0))
    make(source, tmp_path / "undisturbed")
    assert content_of(tmp_path / "out") == content_of(tmp_path / "undisturbed")


def test_a_finished_data_set_is_left_as_it_is_and_cleared_of_leftovers(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out")
    before = content_of(tmp_path / "out")
    (tmp_path / "out" / "build.json").write_text("{}")
    (tmp_path / "out" / "shards" / "000000.tar.1.partial").write_text("half")
    assert isinstance(build.plan(config(source, tmp_path / "out")), build.Finished)
    assert content_of(tmp_path / "out") == before


def test_other_library_versions_may_look_at_a_finished_data_set_but_not_go_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(source, tmp_path / "finished")
    build.plan(config(source, tmp_path / "begun"))
    monkeypatch.setattr(versions, "packages", lambda: {"pillow": "99.0"})
    assert isinstance(build.plan(config(source, tmp_path / "finished")), build.Finished)
    with pytest.raises(ConfigError, match=r"versions\.pillow was .*, is \"99\.0\""):
        build.plan(config(source, tmp_path / "begun"))


def test_changed_code_may_look_at_a_finished_data_set_but_not_go_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(source, tmp_path / "finished")
    todo = build.plan(config(source, tmp_path / "begun"))
    assert isinstance(todo, build.BuildPlan)
    assert not run_task(todo.tasks[0]).resumed
    monkeypatch.setattr(versions, "code", lambda: "another")
    assert isinstance(build.plan(config(source, tmp_path / "finished")), build.Finished)
    with pytest.raises(ConfigError, match=r"versions\.code was .*, is \"another\"\. Go on with those, or delete it"):
        build.plan(config(source, tmp_path / "begun"))
    other = build.plan(config(source, tmp_path / "other"))
    assert isinstance(other, build.BuildPlan)
    assert other.build_digest != todo.build_digest
    assert other.config == todo.config


def test_the_code_version_changes_with_every_file_that_a_build_runs_and_with_no_other(tmp_path: Path) -> None:
    sharder, library = tmp_path / "shards", tmp_path / "hemodist"
    shutil.copytree(ROOT / "shards", sharder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "hemodist", library, ignore=shutil.ignore_patterns("__pycache__"))
    before = versions.code_digest(sharder, library)
    assert before == versions.code()
    used = modules_of_a_build()
    assert len(used) > 30
    for name in used:
        file = tmp_path / name
        content = file.read_bytes()
        file.write_bytes(content + b"\n")
        assert versions.code_digest(sharder, library) != before, name
        file.write_bytes(content)
    (sharder / "new.py").touch()
    assert versions.code_digest(sharder, library) != before
    (sharder / "new.py").unlink()
    for name in ("__main__.py", "phantom/head.py", "bench/new.py", "inspect/show.py", "building/estimate.py"):
        (sharder / name).write_text("other")
    assert versions.code_digest(sharder, library) == before


def test_what_is_said_to_decide_no_byte_exists_and_is_all_that_a_build_does_not_run() -> None:
    left_out = [ROOT / "shards" / name for name in versions.NO_BYTES]
    assert all(path.exists() for path in left_out)
    files = (path for path in (ROOT / "shards").rglob("*.py") if not any(path.is_relative_to(it) for it in left_out))
    used = {name for name in modules_of_a_build() if name.startswith("shards/")}
    assert {path.relative_to(ROOT).as_posix() for path in files} == used


def modules_of_a_build() -> list[str]:
    """The files of the sharder, and of the contract with the library, that a build imports or starts."""
    program = (
        "import sys, shards.building.build, shards.dicom.decoder_process; "
        "rooms = [('shards',), ('hemodist', 'dataset')]; "
        "names = [name for name in sys.modules for room in rooms if tuple(name.split('.')[:len(room)]) == room]; "
        "print(*[sys.modules[name].__file__ for name in names])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return [Path(file).relative_to(ROOT).as_posix() for file in found.stdout.split()]


def test_a_node_with_another_version_is_an_error_that_names_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    todo = build.plan(config(source, tmp_path / "out"))
    assert isinstance(todo, build.BuildPlan)
    monkeypatch.setattr(versions, "packages", lambda: todo.config["versions"] | {"pillow": "1.0"})
    with pytest.raises(UserError, match=r"pillow is 1\.0 here, .* on the driver"):
        build.run(todo)
    assert not list((tmp_path / "out").rglob("*.tar"))


def test_all_decoders_count() -> None:
    plugins = {"pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "pyjpegls", "python-gdcm"}
    assert plugins < versions.packages().keys()


def test_a_fresh_key_is_kept_while_unfinished_and_gone_afterwards(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(unfinished.KEY_VARIABLE)
    output = tmp_path / "out"
    todo = build.plan(config(source, output))
    assert isinstance(todo, build.BuildPlan)
    fresh = (output / unfinished.KEY_FILE).read_text()
    assert stat.S_IMODE((output / unfinished.KEY_FILE).stat().st_mode) == 0o600
    run_task(todo.tasks[0])
    again = build.plan(config(source, output))
    assert isinstance(again, build.BuildPlan)
    assert again.tasks[0] == todo.tasks[0]
    build.run(again)
    assert not any(fresh.encode() in content for content in content_of(output).values())
    other = make(source, tmp_path / "other")
    assert other.index_sha256 != make(source, output).index_sha256


@pytest.mark.parametrize("links", [True, False], ids=["with links", "without"])
def test_two_drivers_that_begin_at_once_use_one_key(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    monkeypatch.delenv(unfinished.KEY_VARIABLE)
    output, drawn = tmp_path / "out", secrets.token_hex
    other: list[build.BuildPlan | build.Finished] = []

    def overtaken(count: int) -> str:
        """While this driver draws its key, another one begins."""
        monkeypatch.setattr(secrets, "token_hex", drawn)
        other.append(build.plan(config(source, output)))
        return drawn(count)

    def no_link(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", no_link)
    monkeypatch.setattr(secrets, "token_hex", overtaken)
    todo = build.plan(config(source, output))
    assert isinstance(todo, build.BuildPlan)
    assert isinstance(other[0], build.BuildPlan)
    assert todo.tasks[0].pseudonym_key == other[0].tasks[0].pseudonym_key
    assert todo.build_digest == other[0].build_digest
    assert isinstance(build.plan(config(source, output)), build.BuildPlan)
    assert sorted(content_of(output)) == [unfinished.KEY_FILE, unfinished.BUILD]


def test_a_fresh_key_is_never_readable_for_others(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(unfinished.KEY_VARIABLE)
    modes: list[int] = []
    sync = os.fsync

    def looking(descriptor: int) -> None:
        written = (tmp_path / "out").rglob(f"{unfinished.KEY_FILE}*")
        modes.extend(stat.S_IMODE(path.stat().st_mode) for path in written)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", looking)
    build.plan(config(source, tmp_path / "out"))
    assert modes
    assert set(modes) == {0o600}


def test_a_data_set_that_another_driver_has_finished_meanwhile_is_finished(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    todo = build.plan(config(source, output))
    assert isinstance(todo, build.BuildPlan)

    def overtaken(result: TaskResult) -> None:
        if result.number == len(todo.tasks) - 1:
            make(source, output)

    manifest, shared = build.run(todo, None, overtaken)
    assert shared is None
    assert manifest == make(source, tmp_path / "undisturbed")
    assert content_of(output) == content_of(tmp_path / "undisturbed")


def test_a_half_written_shard_that_a_faster_driver_swept_away_is_no_fault(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    todo = build.plan(config(source, output))
    assert isinstance(todo, build.BuildPlan)
    write = Store.write

    def swept(self: Store, name: str, content: bytes | memoryview) -> None:
        monkeypatch.setattr(Store, "write", write)
        make(source, output)
        raise StoreError(f"cannot write {name}: its half is gone")

    monkeypatch.setattr(Store, "write", swept)
    manifest, _ = build.run(todo)
    assert manifest == make(source, tmp_path / "undisturbed")
    assert content_of(output) == content_of(tmp_path / "undisturbed")


def test_old_half_written_files_are_swept_at_the_start_and_recent_ones_left(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    build.plan(config(source, output))
    (output / "shards").mkdir()
    old, recent = (output / "shards" / f"000000.tar.{name}.partial" for name in ("old", "recent"))
    for path in (old, recent):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - unfinished.STALE_SECONDS - 60,) * 2)
    build.plan(config(source, output))
    assert (old.exists(), recent.exists()) == (False, True)
    make(source, output)
    assert not list(output.rglob("*.partial"))
