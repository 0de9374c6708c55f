from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hemodist.bench import loader, planning, rounds
from hemodist.bench.loader import AUGMENTED, LIMIT, OURS, PEERS, READER
from hemodist.bench.peer_process import PeerError, Process
from hemodist.bench.peers.serve import STD, Spec
from hemodist.bench.peers.torch_loader import Decode, images_of
from hemodist.bench.rounds import Lap, Outcome, Rate
from hemodist.config.data import AugmentConfig
from hemodist.config.recipes import resnet18
from shards.bench import data

BATCH = 8


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    folder = tmp_path_factory.mktemp("bench")
    dataset = data.make(folder / "set", slices=3 * BATCH, names=1, size=64, per_shard=BATCH)
    return loader.spec_of(dataset, folder, batch=BATCH, cores=2, workers=0, shuffle=False, warm=1, timed=1)


def first_batch(name: str, spec: Spec, python: str | None = None) -> np.ndarray:
    settings = dict(PEERS[name].settings) | {"workers": 0}
    process = Process(name, PEERS[name], dataclasses.replace(spec, **settings), *([python] if python else []))
    try:
        lap = process.lap()
        assert lap.rate > 0
        assert lap.cpu_ms >= 0  # the system counts in hundredths of a second
        assert process.memory_mib() > 10
        return process.first(Path(spec.work) / f"{PEERS[name].module}.npy")
    finally:
        process.close()


@pytest.fixture(scope="module")
def ours(spec: Spec) -> Iterator[np.ndarray]:
    batch = first_batch(OURS, spec)
    assert len({image.tobytes() for image in batch}) == BATCH
    return batch


@pytest.mark.parametrize("name", [name for name in PEERS if name != OURS and not PEERS[name].augmented])
def test_the_first_batch_of_every_peer_holds_the_same_pictures(name: str, spec: Spec, ours: np.ndarray) -> None:
    python = os.environ.get("HEMODIST_STREAMING_PYTHON")
    reason = loader.missing(name, python)
    if reason is not None:
        pytest.skip(f"{name}: {reason} (here by HEMODIST_STREAMING_PYTHON)" if name == loader.MOSAIC else reason)
    theirs = first_batch(name, spec, python if name == loader.MOSAIC else None)
    assert theirs.dtype == ours.dtype == np.float32
    assert theirs.shape == ours.shape == (BATCH, 3, spec.size, spec.size)
    grey = np.abs(theirs - ours) * 255 * np.array(STD).reshape(1, 3, 1, 1)
    assert grey.max() <= 3  # decoders round the inverse cosine transform and the colours differently
    assert grey.mean() <= 0.25


@pytest.mark.parametrize("decoder", ["pil", "torchvision"])
def test_a_peers_augmentation_changes_each_picture_as_far_as_the_strengths_say(spec: Spec, decoder: str) -> None:
    spec = dataclasses.replace(spec, decoder=decoder, normalise="main")
    pictures = [content for _, content in images_of(spec.dataset)]

    def decoded(**strengths: float) -> np.ndarray:
        config = dataclasses.asdict(AugmentConfig(**strengths)) if strengths else None
        decode = Decode(dataclasses.replace(spec, augment=config))
        return np.stack([decode(content).numpy() for content in pictures]).astype(float)

    torch.manual_seed(0)
    plain = decoded()
    assert plain.shape == (3 * BATCH, spec.size, spec.size, 3)
    assert np.array_equal(decoded(min_crop_area=1.0), plain)
    assert np.array_equal(decoded(flip_horizontal=1.0), plain[:, :, ::-1])
    assert np.array_equal(decoded(flip_vertical=1.0), plain[:, ::-1])
    light = decoded(brightness=0.1)
    assert not np.array_equal(light, plain)
    assert (np.abs(light - plain) <= 0.1 * plain + 1).all()  # rounded to whole grey levels
    moved = decoded(min_crop_area=0.7, rotation_degrees=15.0)
    assert moved.shape == plain.shape
    assert (moved != plain).any(axis=(1, 2, 3)).mean() > 0.8  # a picture may be all black
    larger = (moved > 200).mean() / (plain > 200).mean()  # the skull, cropped to 0.7 to 1 of the area
    assert 1 < larger < 1 / 0.7


def test_a_peer_refuses_what_torchvision_cannot_draw(spec: Spec) -> None:
    with pytest.raises(ValueError, match=r"leave augment\.transpose at 0"):
        Decode(dataclasses.replace(spec, augment=dataclasses.asdict(AugmentConfig(transpose=0.5))))


def test_every_way_of_one_kind_augments_with_the_same_strengths_on_as_many_workers(spec: Spec) -> None:
    specs = {name: peer.spec(spec) for name, peer in PEERS.items()}
    augmented = {name: each for name, each in specs.items() if PEERS[name].augmented}
    assert AUGMENTED in augmented
    assert len(augmented) == 5
    assert all(each.augment == dataclasses.asdict(resnet18().augment) for each in augmented.values())
    assert all(each.augment is None for name, each in specs.items() if name not in augmented)
    assert {(each.workers, each.cores, each.batch, each.size) for each in specs.values()} == {
        (spec.workers, spec.cores, spec.batch, spec.size)
    }


def test_each_bound_is_a_line_that_says_whether_it_held() -> None:
    def rate(way: str, per_s: float, first: float) -> Rate:
        return Rate(way, (Lap(per_s, 1.0),) * 3, {"first_batch_seconds": first}, (first,))

    slow, fast = "webdataset, tensors, augmented", "litdata, PIL, augmented"
    shown = loader.ratios([
        rate(OURS, 96, 0.2), rate(LIMIT, 100, 0.1), rate(READER, 100, 0.3),
        rate(AUGMENTED, 40, 0.5), rate(slow, 10, 0.4), rate(fast, 30, 0.6),
    ])  # fmt: skip
    lines = {name: str(value) for name, value in shown.items() if value.held is not None}
    assert lines == {
        f"{OURS} / {LIMIT}": "0.960 (0.960 to 0.960), at least 0.99: NOT HELD",
        f"{OURS} / {READER}": "0.960 (0.960 to 0.960), at least 0.97: NOT HELD",
        f"seconds to the first batch, {OURS} / {READER}, the earliest": "0.667 (0.667 to 0.667), at most 1: held",
        f"{AUGMENTED} / {fast}, the fastest": "1.33 (1.33 to 1.33), at least 1.3: held",
        f"seconds to the first batch, {AUGMENTED} / {slow}, the earliest": "1.25 (1.25 to 1.25), at most 1: NOT HELD",
        f"{AUGMENTED} / {OURS}": "0.417 (0.417 to 0.417), at least 0.35: held",
    }
    assert shown[f"{AUGMENTED} / {slow}"].median == 4
    assert f"{AUGMENTED} / {slow}, by CPU time" in shown


def test_a_peer_that_fails_is_named_with_what_it_wrote_last(spec: Spec) -> None:
    with pytest.raises(PeerError, match=r"bare decode ended with code 1; .*Error"):
        Process(loader.LIMIT, PEERS[loader.LIMIT], dataclasses.replace(spec, dataset=spec.work + "/nothing"))


def test_a_peer_without_its_package_says_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "litdata", dataclasses.replace(PEERS["litdata"], package="not_installed"))
    assert loader.missing("litdata", None) == "not_installed is not installed; use `uv run --group bench`"
    assert "--streaming-python" in str(loader.missing(loader.MOSAIC, None))


def test_every_way_runs_once_a_round_and_none_always_follows_the_same(tmp_path: Path) -> None:
    ran: list[str] = []
    ways = {name: lambda name=name: ran.append(name) or Lap(len(ran), 1.0) for name in "abc"}
    laps = rounds.measure(ways, rounds=2)
    assert ran == list("abcbcacab")
    assert [lap.rate for lap in laps["a"]] == [6, 8]
    assert rounds.ratio([2.0, 4.0, 9.0], [1.0, 1.0, 1.0]) == 4.0


def test_figures_carry_machine_versions_commit_and_date(tmp_path: Path) -> None:
    rates = [Rate("hemodist", (Lap(2, 1), Lap(4, 1), Lap(3, 2)), {}), Rate("other", (Lap(1, 1),), {})]
    outcome = Outcome(
        "t", [], [], {}, {"rates": [r.to_dict() for r in rates]}, ("numpy",), lambda p: rounds.plot(rates, "t", "x", p)
    )
    values = json.loads(rounds.write("loader", outcome, tmp_path / "out").read_text())
    assert values["versions"] == {"numpy": np.__version__}
    assert values["machine"]["cpus"] == len(os.sched_getaffinity(0))
    assert {"commit", "date", "what"} <= values.keys()
    assert (values["rates"][0]["median"], values["rates"][0]["cpu_ms"]) == (3, 1)
    assert (tmp_path / "out" / "bench_loader.png").read_bytes().startswith(b"\x89PNG")


def test_planning_for_all_of_rsna_keeps_its_bounds() -> None:
    cost = planning.plan_cost()
    assert cost.start_seconds < 1
    assert cost.peak_mib < 100e6 / 2**20
    assert cost.at_microseconds < 1000


def test_every_shard_is_fetched_once_a_node_by_1_to_16_workers(spec: Spec, tmp_path: Path) -> None:
    costs = planning.cache_scaling(Path(spec.dataset), tmp_path)
    assert list(costs) == [1, 2, 4, 8, 16]
    assert {cost.fetches for cost in costs.values()} == {3}
