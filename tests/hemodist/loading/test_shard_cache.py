"""The node's cache of shards: verified, bounded, shared, and never a source."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from hemodist.dataset.dataset import DataSet
from hemodist.errors import ConfigError
from hemodist.loading import cache_files
from hemodist.loading.cache_files import CacheError
from hemodist.loading.sample_reader import Reader
from hemodist.loading.shard_cache import FETCHERS, ShardCache
from hemodist.storage.store import Store
from tests.support.dataset import make_dataset
from tests.support.forks import forking


@dataclass(frozen=True)
class Remote(Store):
    """A local folder that says it is far away, and writes down what is read from it.

    Attributes:
        log: a file with a line a read: many processes may append to it.
        spoilt: the next answers that are wrong, by name.
    """

    log: Path = Path()
    spoilt: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def is_local(self) -> bool:
        return False

    def read(self, name: str) -> bytes:
        with self.log.open("a") as log:
            log.write(f"{name}\n")
        time.sleep(self.seconds)
        content = Path(self.path(name)).read_bytes()
        if self.spoilt.get(name, 0):
            self.spoilt[name] -= 1
            content = bytes([content[0] ^ 1]) + content[1:]
        return content

    def counts(self) -> Counter[str]:
        return Counter(self.log.read_text().split())


def far(folder: Path, log: Path, seconds: float = 0.0) -> DataSet:
    near = DataSet.open(str(folder))
    log.touch()
    return DataSet(
        Remote(near.store.uri, near.store.root, near.store.filesystem, log, {}, seconds), near.manifest, near.index
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), samples=96, per_shard=8)  # 12 shards


@pytest.fixture
def dataset(folder, tmp_path) -> DataSet:
    return far(folder, tmp_path / "log")


def size(dataset: DataSet, *shards: int) -> int:
    return sum(dataset.manifest.shards[shard].bytes for shard in shards)


def held(root: Path) -> list[int]:
    return sorted(int(path.stem) for path in root.glob("copies/*/*.copy"))


def taken(root: Path) -> int:
    return sum(path.stat().st_size for path in root.glob("copies/*/*.copy*"))


def wait_until(true) -> None:
    while not true():
        time.sleep(0.01)


def test_a_cached_shard_has_the_sources_bytes_and_is_fetched_once(dataset, folder, tmp_path):
    cache = ShardCache(dataset, str(tmp_path / "c"))
    for _ in range(3):
        with cache.open(5) as file:
            assert file.read() == (folder / "shards/000005.tar").read_bytes()
    assert dataset.store.counts() == {"shards/000005.tar": 1}
    assert not list((tmp_path / "c").rglob("*.partial"))


def test_local_shards_are_read_in_place_and_nothing_is_written(folder, tmp_path):
    cache = ShardCache(DataSet.open(str(folder)), str(tmp_path / "c"), limit=1)
    cache.follow([0, 1], [2, 3])
    with cache.open(3) as file:
        assert Path(file.name) == folder / "shards/000003.tar"
    assert not (tmp_path / "c").exists()


def test_what_the_plan_needs_last_is_deleted_first_and_the_bound_holds(dataset, tmp_path):
    cache = ShardCache(dataset, str(tmp_path), limit=size(dataset, 0, 1, 2, 3))
    for shard in range(4):
        cache.open(shard).close()
    cache._needed_before = {1: 0, 7: 0, 3: 1, 0: 2, 2: 9}  # as `follow` would, without fetching ahead
    cache.open(7).close()
    assert held(tmp_path) == [0, 1, 3, 7]
    cache._needed_before = {8: 0, 7: 1, 3: 2, 0: 3}  # nobody needs shard 1 any more
    cache.open(8).close()
    assert held(tmp_path) == [0, 3, 7, 8]
    assert taken(tmp_path) <= size(dataset, 0, 1, 2, 3)


def test_a_shard_in_use_is_never_deleted_and_its_release_frees_its_bytes(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_files, "WAIT_FOR_FREE_BYTES", 0.3)
    cache = ShardCache(dataset, str(tmp_path), limit=size(dataset, 0, 1))
    first, second = cache.open(0), cache.open(1)
    with pytest.raises(CacheError, match=r"bytes of copies are in use .*set data.cache_gb higher"):
        cache.open(2)
    assert held(tmp_path) == [0, 1]
    first.close()
    cache.open(2).close()
    assert held(tmp_path) == [1, 2]
    second.close()


def test_a_shard_in_use_by_another_process_is_kept_until_that_process_is_killed(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_files, "WAIT_FOR_FREE_BYTES", 0.3)
    cache = ShardCache(dataset, str(tmp_path), limit=size(dataset, 0))
    cache.open(0).close()
    (cached,) = tmp_path.glob("copies/*/000000.copy")
    code = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'rb'); fcntl.flock(file, fcntl.LOCK_SH); "
        "print('held', flush=True); time.sleep(99)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(cached)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(CacheError, match="no room"):
        cache.open(1)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    cache.open(1).close()
    assert held(tmp_path) == [1]


def test_a_reader_keeps_its_shard_until_it_is_closed(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_files, "WAIT_FOR_FREE_BYTES", 0.3)
    cache = ShardCache(dataset, str(tmp_path), limit=size(dataset, 0))
    reader = Reader(dataset, cache)
    assert reader.read(0)[:4].tobytes() == b"\x89PNG"
    with pytest.raises(CacheError, match="no room"):
        cache.open(1)
    reader.close()
    cache.open(1).close()


def test_cached_shards_are_deleted_where_only_a_file_open_for_writing_can_be_locked_alone(
    dataset, tmp_path, monkeypatch
):
    """As NFS version 4 has it."""
    flock = fcntl.flock

    def strict(file, operation):
        descriptor = file if isinstance(file, int) else file.fileno()
        readable_only = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        if operation & fcntl.LOCK_EX and readable_only:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", strict)
    cache = ShardCache(dataset, str(tmp_path), limit=size(dataset, 0))
    for shard in range(3):
        cache.open(shard).close()
    assert held(tmp_path) == [2]


def test_a_folder_of_somebody_else_is_named_with_the_remedy(dataset, tmp_path, monkeypatch):
    def refuse(self, *_arguments, **_options):
        if "copies" in self.parts:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return exists(self)

    exists = Path.exists
    monkeypatch.setattr(Path, "exists", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    for act in (lambda cache: cache.open(0), lambda cache: cache.follow([0], []), lambda cache: cache.check_holds([])):
        with pytest.raises(CacheError, match=r"Permission denied.*set data.cache to another folder"):
            act(ShardCache(dataset, str(tmp_path)))


def test_a_manifest_that_gives_a_shard_another_length_than_its_digest_is_an_error_and_not_an_endless_fetch(
    dataset, tmp_path
):
    shards = list(dataset.manifest.shards)
    shards[3] = replace(shards[3], bytes=shards[3].bytes - 512)
    lying = DataSet(dataset.store, replace(dataset.manifest, shards=shards), dataset.index)
    with pytest.raises(CacheError, match=rf"000003.tar was fetched 3 times .*{shards[3].bytes} bytes"):
        ShardCache(lying, str(tmp_path)).open(3)


def test_cached_shards_of_other_data_sets_are_deleted_first(dataset, tmp_path):
    other = far(make_dataset(tmp_path / "other", samples=8, per_shard=8, seed=9), tmp_path / "other_log")
    ShardCache(other, str(tmp_path)).open(0).close()
    cache = ShardCache(dataset, str(tmp_path), limit=size(dataset, 0, 1))
    cache.open(0).close()
    cache.open(1).close()
    assert [path.parent.name for path in tmp_path.glob("copies/*/*.copy")] == [dataset.manifest.digest[:32]] * 2


def test_a_source_below_the_cache_folder_is_never_deleted(dataset, folder, tmp_path):
    # A careless user keeps data sets where the cache files go.
    for place in (tmp_path / "copies" / "mine", tmp_path / "copies" / dataset.manifest.digest[:32] / "shards"):
        place.mkdir(parents=True)
        (place / "000000.tar").write_bytes(bytes(1000))
    cache = ShardCache(dataset, str(tmp_path), limit=size(dataset, 0))
    for shard in range(4):
        cache.open(shard).close()
    assert held(tmp_path) == [3]
    assert len(list(tmp_path.rglob("*.tar"))) == 2


def test_shards_are_fetched_ahead_in_the_order_of_need_as_far_as_they_fit(dataset, tmp_path):
    cache = ShardCache(dataset, str(tmp_path), limit=size(dataset, 4, 2, 9, 7, 1))
    cache.follow([4, 2], [9, 7, 1, 0, 3, 5])
    wait_until(lambda: held(tmp_path) == [1, 2, 4, 7, 9])
    time.sleep(0.1)
    assert sum(dataset.store.counts().values()) == 5  # nothing that would push out what is needed sooner
    cache.follow([9, 7], [1, 0, 3])  # the next block: 4 and 2 have been read
    wait_until(lambda: held(tmp_path) == [0, 1, 3, 7, 9])
    assert max(dataset.store.counts().values()) == 1
    cache.close()


def test_few_fetches_run_at_a_time(folder, tmp_path, monkeypatch):
    dataset = far(folder, tmp_path / "log")
    running, most = [], []

    def read(self: Remote, name: str) -> bytes:
        running.append(name)
        most.append(len(running))
        time.sleep(0.02)
        content = Path(self.path(name)).read_bytes()
        running.remove(name)
        return content

    monkeypatch.setattr(Remote, "read", read)
    cache = ShardCache(dataset, str(tmp_path))
    cache.follow([], list(range(12)))
    wait_until(lambda: held(tmp_path) == list(range(12)))
    assert max(most) <= FETCHERS
    cache.close()


def test_a_shard_that_fails_its_digest_is_fetched_again_and_then_named(dataset, tmp_path):
    name = dataset.manifest.shards[3].name
    dataset.store.spoilt[name] = 2
    cache = ShardCache(dataset, str(tmp_path))
    cache.open(3).close()
    assert dataset.store.counts()[name] == 3
    dataset.store.spoilt[dataset.manifest.shards[4].name] = 99
    with pytest.raises(CacheError, match=r"shards/000004.tar was fetched 3 times and never matched its SHA-256"):
        cache.open(4)
    assert held(tmp_path) == [3]


def test_a_cached_shard_that_changes_on_the_disk_is_fetched_again(dataset, tmp_path):
    reader = Reader(dataset, ShardCache(dataset, str(tmp_path)))
    expected = reader.read(10).tobytes()
    (cached,) = tmp_path.glob("copies/*/000001.copy")
    content = bytearray(cached.read_bytes())
    for row in range(8, 16):
        content[int(dataset.column("offset")[row])] ^= 0x10
    cached.write_bytes(content)
    assert reader.read(10).tobytes() == expected
    assert reader.corrupt == set()
    assert dataset.store.counts()["shards/000001.tar"] == 2


def test_a_cached_shard_cut_short_by_a_power_cut_is_fetched_again(dataset, tmp_path):
    cache = ShardCache(dataset, str(tmp_path))
    cache.open(2).close()
    (cached,) = tmp_path.glob("copies/*/*.copy")
    os.truncate(cached, 100)
    with cache.open(2) as file:
        assert len(file.read()) == size(dataset, 2)


def test_what_killed_processes_left_is_swept_and_what_others_write_is_not(dataset, tmp_path):
    cache = ShardCache(dataset, str(tmp_path), limit=size(dataset, 0, 1, 2))
    cache.open(0).close()
    (place,) = tmp_path.glob("copies/*/")
    (place / "000007.copy.partial").write_bytes(bytes(size(dataset, 1, 2)))
    with (place / "000008.copy.partial").open("wb") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        writing.write(b"x")
        writing.flush()
        cache.open(1).close()
        assert not (place / "000007.copy.partial").exists()
        assert (place / "000008.copy.partial").exists()
    assert held(tmp_path) == [0, 1]


def test_on_a_full_disk_others_are_deleted_or_it_is_said(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_files, "WAIT_FOR_FREE_BYTES", 0.1)
    disk = size(dataset, 0, 1)

    def allocate(descriptor: int, offset: int, length: int) -> None:
        if taken(tmp_path) + length > disk:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.ftruncate(descriptor, length)

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    cache = ShardCache(dataset, str(tmp_path), limit=10**12)
    for shard in (0, 1, 2):
        cache.open(shard).close()
    assert held(tmp_path) == [1, 2]
    with cache.open(1), cache.open(2), pytest.raises(CacheError, match=r"the disk has \d+ free"):
        cache.open(3)
    disk = 10
    with pytest.raises(CacheError, match="no room for a shard"):
        ShardCache(dataset, str(tmp_path / "another")).open(3)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_folder_that_cannot_be_made_says_so(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"cannot keep copies .* set data.cache to another folder"):
        ShardCache(dataset, str(tmp_path / "file")).open(0)


def test_a_cache_smaller_than_what_is_read_at_a_time_is_refused_with_the_numbers(dataset, tmp_path):
    cache = ShardCache(dataset, str(tmp_path), limit=size(dataset, 0, 1))
    cache.check_holds([[0], [1, 0]])
    with pytest.raises(ConfigError, match=r"but 3 shards of together .* use data.cache_gb 0\.\d+ or more"):
        cache.check_holds([[0], [2, 1, 0]])


def work(folder: Path, place: Path, log: Path, seed: int, limit: int, cycles: int) -> None:
    """A rank: goes through the shards in blocks of three, each twice, and checks every byte that it reads."""
    dataset = far(folder, log, seconds=0.02)
    cache = ShardCache(dataset, str(place), limit=limit)
    rng = np.random.default_rng(seed)
    blocks = [list(range(i, i + 3)) for i in range(0, 12, 3)] * cycles
    reader = Reader(dataset, cache)
    shard = dataset.column("shard")
    from hemodist.plan.order import NeededShards

    for number, block in enumerate(blocks):
        rest = [s for later in blocks[number + 1 :] for s in later if s not in block]
        needed = NeededShards(tuple(block), tuple(dict.fromkeys(rest)))
        for row in rng.permutation(np.flatnonzero(np.isin(shard, block))):
            reader.follow(needed)
            reader.read(int(row))  # checks the CRC-32
    reader.close()
    cache.close()


def run_work(processes: int, *arguments, kill_after: float | None = None) -> list[int]:
    started = [forking().Process(target=work, args=(*arguments[:3], seed, *arguments[3:])) for seed in range(processes)]
    for process in started:
        process.start()
    if kill_after is not None:
        wait_until(lambda: arguments[2].exists() and len(arguments[2].read_text().split()) >= kill_after)
        os.kill(started[0].pid, signal.SIGKILL)
    for process in started:
        process.join()
    return [process.exitcode for process in started]


def test_several_processes_of_a_node_fetch_each_shard_once(folder, tmp_path):
    dataset = DataSet.open(str(folder))
    assert run_work(4, folder, tmp_path, tmp_path / "log", 10**9, 2) == [0] * 4
    counts = Counter((tmp_path / "log").read_text().split())
    assert counts == {info.name: 1 for info in dataset.manifest.shards}


def test_processes_that_share_a_small_folder_stay_within_the_bound_and_finish_though_one_is_killed(folder, tmp_path):
    dataset = DataSet.open(str(folder))
    limit = max(size(dataset, *range(i, i + 3)) for i in range(0, 12, 3)) * 7 // 3  # two blocks and a bit
    assert run_work(3, folder, tmp_path, tmp_path / "log", limit, 2, kill_after=5) == [-signal.SIGKILL, 0, 0]
    assert taken(tmp_path) <= limit
    ShardCache(far(folder, tmp_path / "log"), str(tmp_path), limit=limit).open(0).close()
    assert not list(tmp_path.rglob("*.partial"))
