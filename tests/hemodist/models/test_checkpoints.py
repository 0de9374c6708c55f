from __future__ import annotations

import json

import pytest
import torch

from hemodist.models.checkpoint_file import CheckpointError
from hemodist.models.checkpoint_record import CheckpointRecord
from hemodist.models.checkpoints import Checkpoints, open_checkpoint
from hemodist.storage.store import Store, StoreError

STATE = {"dataset": "d", "split": "s", "seed": 0, "history": []}


def state_of(step: int) -> dict:
    weights = {"w": torch.full((50,), float(step))}
    return {"model": weights, "scored": weights, "run": {"name": "x"}, "state": STATE | {"step": step}}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(tmp_path / "run")


def test_what_was_saved_comes_back(store):
    checkpoints = Checkpoints(store, keep=2)
    checkpoints.save(state_of(5), 5, 0.3)
    back = checkpoints.newest(pytest.fail)
    assert torch.equal(back["model"]["w"], state_of(5)["model"]["w"])
    assert back["state"] == STATE | {"step": 5}


def test_the_newest_and_the_best_are_kept(store):
    checkpoints = Checkpoints(store, keep=2)
    for step, score in enumerate([0.5, 0.2, 0.4, None, 0.3, 0.6]):
        checkpoints.save(state_of(step), step, score)
    assert [record.step for record in checkpoints.records()] == [1, 4, 5]
    assert checkpoints.best(pytest.fail)["state"]["step"] == 1
    assert sorted(name for name, _ in store.list()) == [
        f"checkpoints/step-{step:08d}.{suffix}" for step in (1, 4, 5) for suffix in ("json", "pt")
    ]


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(store, damage):
    checkpoints = Checkpoints(store, keep=3)
    checkpoints.save(state_of(1), 1, None)
    checkpoints.save(state_of(2), 2, None)
    file = store.local("checkpoints/step-00000002.pt")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[:-100])
    else:
        file.unlink()
    said: list[str] = []
    assert checkpoints.newest(said.append)["state"]["step"] == 1
    assert "step-00000002" in said[0]
    with pytest.raises(Exception, match="step-00000002"):
        checkpoints.at(2)


def names(store: Store) -> list[str]:
    return sorted(path.name for path in store.local("checkpoints").iterdir())


def test_damaged_checkpoints_that_were_passed_over_push_out_no_whole_one(store):
    checkpoints = Checkpoints(store, keep=1)
    checkpoints.save(state_of(10), 10, None)
    Checkpoints(store, keep=2).save(state_of(20), 20, None)
    store.local("checkpoints/step-00000020.pt").write_bytes(b"damaged")
    newest = checkpoints.newest(lambda text: None)
    checkpoints.delete_leftovers(newest["state"]["step"])
    for step in (11, 12):
        checkpoints.save(state_of(step), step, None)
        assert checkpoints.newest(pytest.fail)["state"]["step"] == step
    assert names(store) == ["step-00000012.json", "step-00000012.pt"]


def test_what_kills_leave_of_checkpoints_is_cleared_away_when_a_run_goes_on(store):
    checkpoints = Checkpoints(store, keep=2)
    checkpoints.save(state_of(5), 5, None)
    store.write("checkpoints/step-00000007.pt", b"without a record")
    store.write("checkpoints/step-00000003.json", b"{half a rec")
    store.local("checkpoints/step-00000009.pt.0123.partial").write_bytes(b"part")
    checkpoints.delete_leftovers(5)
    assert names(store) == ["step-00000005.json", "step-00000005.pt"]
    checkpoints.delete_leftovers(None)
    assert names(store) == []


@pytest.mark.parametrize("suffix", ["json", "pt"])
def test_a_store_that_cannot_be_read_is_no_damaged_checkpoint(store, suffix, monkeypatch):
    checkpoints = Checkpoints(store, keep=2)
    for step in (1, 2):
        checkpoints.save(state_of(step), step, 0.5 / step)
    read = Store.read

    def fails(self: Store, name: str) -> bytes:
        if name.endswith(f"2.{suffix}"):
            raise StoreError("503")
        return read(self, name)

    monkeypatch.setattr(Store, "read", fails)
    for ask in (checkpoints.newest, checkpoints.best):
        with pytest.raises(StoreError, match="503"):
            ask(pytest.fail)


def test_a_damaged_best_checkpoint_is_named_and_the_next_best_is_taken(store):
    checkpoints = Checkpoints(store, keep=3)
    for step, score in enumerate([0.2, 0.1, 0.3]):
        checkpoints.save(state_of(step), step, score)
    store.local("checkpoints/step-00000001.pt").write_bytes(b"damaged")
    said: list[str] = []
    assert checkpoints.best(said.append)["state"]["step"] == 0
    assert "step-00000001" in said[0]


def test_a_checkpoint_without_its_record_does_not_count(store):
    checkpoints = Checkpoints(store, keep=3)
    checkpoints.save(state_of(1), 1, None)
    store.write("checkpoints/step-00000009.pt", b"half")
    assert checkpoints.newest(pytest.fail)["state"]["step"] == 1


def test_a_run_or_a_file_can_be_opened(store, tmp_path):
    checkpoints = Checkpoints(store, keep=3)
    checkpoints.save(state_of(1), 1, 0.1)
    checkpoints.save(state_of(2), 2, 0.2)
    assert open_checkpoint(store.uri)["state"]["step"] == 1
    assert open_checkpoint(f"{store.uri}/checkpoints/step-00000002.pt")["state"]["step"] == 2


def test_what_is_no_checkpoint_says_so(store, tmp_path):
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        open_checkpoint(store.uri)
    torch.save({"other": 1}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="lacks"):
        open_checkpoint(str(tmp_path / "other.pt"))
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_checkpoint(str(tmp_path / "junk.pt"))


def test_loading_never_executes_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError):
        open_checkpoint(str(tmp_path / "evil.pt"))
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_is_told_of_when_it_is_there(store):
    checkpoints = Checkpoints(store, keep=2)
    told: list[list[int]] = []
    checkpoints.save_in_background(state_of(3), 3, None, lambda: told.append([r.step for r in checkpoints.records()]))
    checkpoints.wait()
    assert told == [[3]]


def test_what_is_written_behind_the_training_is_what_was_there_when_it_was_asked_for(store):
    checkpoints = Checkpoints(store, keep=3)
    state = state_of(3) | {"shared": None}
    state["shared"] = state["model"]
    checkpoints.save_in_background(state, 3, None)
    state["model"]["w"].fill_(-1.0)  # the next update
    checkpoints.wait()
    back = checkpoints.newest(pytest.fail)
    assert torch.equal(back["model"]["w"], torch.full((50,), 3.0))
    assert back["shared"]["w"].data_ptr() == back["model"]["w"].data_ptr()  # stored once


def test_a_checkpoint_that_could_not_be_written_behind_is_said_where_it_is_waited_for(store, tmp_path):
    checkpoints = Checkpoints(store, keep=3)
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "checkpoints").write_text("in the way")
    checkpoints.save_in_background(state_of(1), 1, None)
    with pytest.raises(StoreError):
        checkpoints.wait()
    checkpoints.wait()  # once


def test_the_record_says_what_run_it_is_of_without_the_large_file(store):
    checkpoints = Checkpoints(store, keep=3)
    assert checkpoints.newest_origin() is None
    assert checkpoints.best_step() is None
    checkpoints.save(state_of(1), 1, 0.2)
    checkpoints.save(state_of(2), 2, 0.3)
    store.delete("checkpoints/step-00000002.pt")
    assert checkpoints.newest_origin() == {"run": {"name": "x"}, "state": {"dataset": "d", "split": "s"}}
    assert checkpoints.best_step() == 1


RECORD = "checkpoints/step-00000002.json"


def two(store: Store) -> Checkpoints:
    checkpoints = Checkpoints(store, keep=3)
    checkpoints.save(state_of(1), 1, 0.3)
    checkpoints.save(state_of(2), 2, 0.2)
    return checkpoints


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_a_flipped_bit_anywhere_in_a_record_is_named_and_its_whole_checkpoint_is_used_with_its_score(store):
    checkpoints = two(store)
    whole = store.read(RECORD)
    for at in range(len(whole) - 1):  # the last byte ends the line
        store.write(RECORD, flipped(whole, at))
        said: list[str] = []
        checkpoints.mend_records(said.append)
        assert len(said) == 1, whole[at : at + 20]
        assert f"{RECORD} of a checkpoint is damaged" in said[0]
        assert "has a new record" in said[0]
        assert store.read(RECORD) == whole
    assert checkpoints.newest(pytest.fail)["state"]["step"] == 2
    assert checkpoints.best_step() == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'"step"',
        b"\xff\xfe",
        b'{"step": 2}',
        b'{"step": "2", "sha256": "", "bytes": 3, "score": null}',
        b'{"step": 2, "sha256": "", "bytes": 3, "score": NaN}',
        b'{"step": 2, "sha256": "", "bytes": 3, "score": null, "origin": {"run": 3}}',
        b'{"step": 2, "sha256": "", "bytes": 3, "score": null, "origin": [1]}',
        b'{"step": 7, "sha256": "", "bytes": 3, "score": null}',
        b'{"step": 2, "sha256": "", "bytes": 3, "score": null, "more": 1}',
    ],
)
def test_a_record_of_wrong_values_is_named_and_mended(store, content):
    checkpoints = two(store)
    store.write(RECORD, content)
    said: list[str] = []
    assert checkpoints.best(said.append)["state"]["step"] == 1
    assert RECORD in said[0]
    checkpoints.mend_records(said.append)
    assert RECORD in said[1]
    assert checkpoints.best(pytest.fail)["state"]["step"] == 2


def test_where_record_and_checkpoint_are_damaged_both_are_named_and_the_one_before_is_used(store):
    checkpoints = two(store)
    store.write(RECORD, b"{")
    file = store.local("checkpoints/step-00000002.pt")
    content = file.read_bytes()
    file.write_bytes(flipped(content, len(content) // 2))
    said: list[str] = []
    checkpoints.mend_records(said.append)
    assert RECORD in said[0]
    assert "step-00000002.pt is damaged in" in said[0]
    assert checkpoints.newest(pytest.fail)["state"]["step"] == 1
    checkpoints.delete_leftovers(1)
    assert names(store) == ["step-00000001.json", "step-00000001.pt"]


def test_a_record_of_version_0_1_0_without_a_sum_of_its_own_counts(store):
    checkpoints = two(store)
    values = json.loads(store.read(RECORD))
    del values["record_sha256"], values["origin"]
    store.write(RECORD, json.dumps(values).encode())
    assert [record.step for record in checkpoints.records(pytest.fail)] == [1, 2]
    assert checkpoints.newest(pytest.fail)["state"]["step"] == 2


def test_a_file_beside_a_damaged_record_opens_and_the_record_is_named(store):
    two(store)
    store.write(RECORD, flipped(store.read(RECORD), 0))
    said: list[str] = []
    assert open_checkpoint(f"{store.uri}/checkpoints/step-00000002.pt", said.append)["state"]["step"] == 2
    assert "step-00000002.json" in said[0]


@pytest.mark.parametrize("wrong", [{"state": []}, {"state": {"step": "x"}}, {"run": 3}, {"model": None}])
def test_a_checkpoint_whose_parts_are_of_another_type_is_none(tmp_path, wrong):
    torch.save(state_of(1) | wrong, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"is no checkpoint of hemodist|is not what hemodist writes"):
        open_checkpoint(str(tmp_path / "x.pt"))


def test_a_record_says_what_was_written():
    record = CheckpointRecord(3, "ab", 5, 0.1, {"run": {"a": 1}, "state": {}})
    assert CheckpointRecord.read(record.to_bytes(), "checkpoints/step-00000003.json") == record
