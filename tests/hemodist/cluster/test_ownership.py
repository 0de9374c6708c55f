"""A folder belongs to the driver that took it last, and ranks write into no other folder than their driver's."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest

from hemodist.cluster import ownership
from hemodist.cluster.ownership import FILE, Claimed, OvertakenError, claim
from hemodist.cluster.workers import run_in_process, run_on_workers
from hemodist.config.operation import ScalingConfig
from hemodist.errors import ConfigError
from hemodist.events import AttemptStarted, Note, Tell
from hemodist.storage.store import Store
from hemodist.world import World
from tests.support.ranks import run_ranks
from tests.support.s3 import bucket_at, s3_process


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(ownership, "WAITS", (0.01, 0.01))


def test_a_driver_and_its_ranks_may_write_until_another_driver_takes_the_folder(tmp_path):
    first = claim(str(tmp_path / "run"))
    of_a_rank: Claimed = pickle.loads(pickle.dumps(first))
    for _ in range(2):
        of_a_rank.check_all_see_it(World.alone())
        of_a_rank.check()
    second = claim(str(tmp_path / "run"))
    said = rf"another driver has gone on with {tmp_path}/run since \d{{4}}-.* UTC on {second.claim.host}; this one ends"
    with pytest.raises(OvertakenError, match=said) as raised:
        of_a_rank.check()
    assert not raised.value.transient
    with pytest.raises(OvertakenError, match=said):  # a restart of its workers
        of_a_rank.check_all_see_it(World.alone())
    second.check()
    second.check_all_see_it(World.alone())


def test_a_folder_in_which_nobody_is_named_is_no_other_drivers(tmp_path):
    mine = claim(str(tmp_path))
    for damage in (lambda file: file.write_text("{"), lambda file: file.unlink()):
        damage(tmp_path / FILE)
        mine.check()


def test_a_node_that_learns_late_of_the_folder_is_waited_for(tmp_path, monkeypatch):
    mine = claim(str(tmp_path))
    written = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).unlink()
    monkeypatch.setattr(ownership.time, "sleep", lambda seconds: (tmp_path / FILE).write_bytes(written))
    mine.check_all_see_it(World.alone())


def seen_by(world: World, claimed: list[Claimed]) -> str:
    try:
        claimed[world.rank].check_all_see_it(world)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("earlier", [False, True])
def test_one_node_that_sees_another_folder_stops_all_ranks(tmp_path, earlier):
    elsewhere = tmp_path / "elsewhere"
    if earlier:  # a driver that once ran on that node
        claim(str(elsewhere))
    mine = claim(str(tmp_path / "run"))
    first, second = run_ranks(seen_by, 2, [mine, Claimed(str(elsewhere), mine.claim)])
    assert f"is not the folder that the driver on {mine.claim.host} wrote to" in second
    assert "give --output s3://... or a folder that all nodes share, such as NFS" in second
    assert ("a driver wrote since" in second) == earlier
    assert first.replace(str(tmp_path / "run"), str(elsewhere)) == second


def test_on_an_object_store_the_last_driver_wins_and_a_missing_claim_means_another_endpoint():
    with s3_process() as (host, port), bucket_at(f"http://{host}:{port}", "runs") as bucket:
        first = claim(f"{bucket}/x")
        first.check_all_see_it(World.alone())
        first.check()
        second = claim(f"{bucket}/x")
        with pytest.raises(OvertakenError, match=f"gone on with {bucket}/x since"):
            first.check()
        second.check()
        Store.open(f"{bucket}/x").delete(FILE)
        with pytest.raises(ConfigError, match="give all nodes the same endpoint, AWS_ENDPOINT_URL"):
            second.check_all_see_it(World.alone())


def left_a_trace(folder: str, world: World, tell: Tell) -> str:
    """What a rank does in these tests."""
    Store.open(folder).write("trace", b"")
    return "done"


def test_workers_that_see_another_folder_than_the_driver_end_the_run_before_they_do_anything(
    cluster, tmp_path, monkeypatch
):
    folder = tmp_path / "run"

    def claimed_elsewhere(uri: str) -> Claimed:
        """The driver's node keeps the folder, and the path leads to an empty one on the nodes of the workers."""
        mine = claim(uri)
        shutil.move(folder, tmp_path / "of_the_driver")
        return mine

    heard = []
    scaling = ScalingConfig(workers=1, device="cpu")
    given = {"gpu": False, "tell": heard.append, "name": "x", "folder": str(folder)}
    assert run_on_workers(left_a_trace, str(folder), scaling, **given) == "done"
    (folder / "trace").unlink()
    heard.clear()
    monkeypatch.setattr("hemodist.cluster.workers.claim", claimed_elsewhere)
    with pytest.raises(ConfigError, match=r"is not the folder that the driver on .* give --output s3://"):
        run_on_workers(left_a_trace, str(folder), scaling, **given)
    # No restart, and no failure that would be counted; a note says where starting takes long.
    assert [event for event in heard if not isinstance(event, Note)] == [AttemptStarted(1)]
    assert not list(tmp_path.rglob("trace"))


def ask_for_the_owner(folder: str, world: World, tell: Tell) -> str:
    """A rank that is overtaken while it works."""
    world.check_still_owner()
    claim(folder)
    world.check_still_owner()
    return "not noticed"


def test_a_rank_in_the_drivers_own_process_learns_of_another_driver_too(tmp_path):
    with pytest.raises(OvertakenError):
        run_in_process(ask_for_the_owner, str(tmp_path), gpu=False, tell=lambda event: None, folder=str(tmp_path))
    assert json.loads((tmp_path / FILE).read_text())["host"]


def test_only_the_chief_asks_for_the_owner(tmp_path: Path):
    def never() -> None:
        raise AssertionError("one request a checkpoint is enough")

    World(1, 2, World.alone().device, check_owner=never).check_still_owner()
