"""What is checked before workers start: a fixed number of them, and a range."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from hemodist.cluster import session
from hemodist.cluster.fit import check_cpus, check_slots, uses_gpu, waiting_for_nodes
from hemodist.cluster.session import ClusterInfo
from hemodist.config.data import BatchConfig, DataConfig
from hemodist.config.operation import ScalingConfig
from hemodist.config.run import Run, check
from hemodist.errors import ConfigError
from hemodist.launch import ranks


def run_of(batch: BatchConfig, **scaling) -> Run:
    return Run(name="x", data=DataConfig(dataset="d"), batch=batch, scaling=ScalingConfig(**scaling))


def test_a_range_of_workers_needs_slots_for_the_fewest_only():
    scaling = ScalingConfig(workers=4, min_workers=2, cpus_per_worker=3)
    check_cpus(scaling, 6)
    assert uses_gpu(scaling, 2)
    with pytest.raises(ConfigError, match=r"min_workers 2 x scaling.cpus_per_worker 3 = 6 CPUs, and there are 5"):
        check_cpus(scaling, 5)
    with pytest.raises(ConfigError, match=r"scaling.min_workers 2 need 2 GPUs, one each, and there are 1"):
        uses_gpu(scaling, 1)


def test_a_fixed_number_of_workers_needs_slots_for_all():
    scaling = ScalingConfig(workers=4)
    with pytest.raises(ConfigError, match=r"scaling.workers 4 x .* = 4 CPUs, and there are 3"):
        check_cpus(scaling, 3)
    with pytest.raises(ConfigError, match=r"scaling.workers 4 need 4 GPUs, one each, and there are 3"):
        uses_gpu(scaling, 3)
    assert not uses_gpu(replace(scaling, device="cpu"), 3)
    assert not uses_gpu(scaling, 0)


def test_the_global_batch_must_fit_every_number_of_workers_in_the_range():
    check(run_of(BatchConfig(global_batch_size=64, mix_group=16), workers=4, min_workers=1))
    with pytest.raises(ConfigError, match="too few for 5 workers"):
        check(run_of(BatchConfig(global_batch_size=64, mix_group=16), workers=8, min_workers=1))
    accumulate = BatchConfig(global_batch_size=64, mix_group=16, accumulate=2)
    check(run_of(accumulate, workers=2, min_workers=1))
    with pytest.raises(ConfigError, match=r"batch.accumulate 2, but a worker reads as few as 1"):
        check(run_of(accumulate, workers=4, min_workers=1))


@pytest.mark.parametrize(("workers", "fewest"), [(2, 3), (2, 0), (0, 1)])
def test_a_range_that_is_none_is_refused(workers, fewest):
    with pytest.raises(ConfigError, match=f"min_workers {fewest} is out of range; use 1 to scaling.workers, {workers}"):
        check(run_of(BatchConfig(), workers=workers, min_workers=fewest))


EIGHT = ScalingConfig(workers=8, cpus_per_worker=10)


@pytest.mark.parametrize(
    ("now", "most", "more"),
    [
        ({"CPU": 8, "GPU": 0}, {"CPU": 648, "GPU": 64}, (640, 64)),  # what the autoscaler's configuration allows
        ({"CPU": 8, "GPU": 4}, {"CPU": 8}, (0, 0)),  # never less than what is there
        ({"CPU": 0, "GPU": 0}, None, (math.inf, math.inf)),  # no node has registered yet
        ({"CPU": 8, "GPU": 0}, None, (0, 0)),  # nobody adds anything
    ],
)
def test_a_cluster_is_as_large_as_it_may_become(now, most, more, monkeypatch):
    monkeypatch.delenv("KUBERAY_GEN_RAY_START_CMD", raising=False)
    monkeypatch.setattr(session.ray, "nodes", lambda: [{"Alive": True, "Labels": {"ray.io/node-id": "1"}}])
    assert session.to_come(now, most) == more


@pytest.mark.parametrize(
    ("command", "labels", "grows"),
    [
        ("ray start --head --no-monitor --num-cpus=8", {"ray.io/node-group": "headgroup"}, True),
        ("ray start --head --num-cpus=8", {"ray.io/node-group": "headgroup"}, False),  # fixed groups
        ("", {"ray.io/node-group": "ray.head.default"}, True),  # ray up
    ],
)
def test_an_autoscaler_that_does_not_say_how_far_it_goes_is_not_a_cluster_that_stays(
    command, labels, grows, monkeypatch
):
    monkeypatch.setenv("KUBERAY_GEN_RAY_START_CMD", command)
    monkeypatch.setattr(session.ray, "nodes", lambda: [{"Alive": True, "Labels": labels}])
    more = math.inf if grows else 0
    assert session.to_come({"CPU": 8, "GPU": 0}, None) == (more, more)


def test_a_run_waits_for_the_nodes_that_an_autoscaler_may_add():
    nothing = ClusterInfo(0, 0, joined=True, cpus_to_come=math.inf, gpus_to_come=math.inf)
    assert check_slots(replace(EIGHT, device="cuda"), nothing)
    assert not check_slots(replace(EIGHT, device="cpu"), nothing)
    said = waiting_for_nodes(replace(EIGHT, device="cuda"), nothing, gpu=True)
    assert "needs 80 CPUs and 8 GPUs" in said
    assert "has 0 and 0 so far; waiting until a node joins" in said
    assert waiting_for_nodes(EIGHT, ClusterInfo(80, 8, joined=True), gpu=True) == ""
    with pytest.raises(ConfigError, match=r"= 80 CPUs, and the cluster grows to 48"):
        check_slots(EIGHT, ClusterInfo(8, 0, joined=True, cpus_to_come=40))
    with pytest.raises(ConfigError, match=r"need 8 GPUs, one each, and the cluster grows to 4; use .* 4"):
        check_slots(EIGHT, ClusterInfo(80, 0, joined=True, gpus_to_come=4))


def test_auto_never_takes_cpus_where_gpus_may_still_join():
    head_with_cpus = ClusterInfo(100, 0, joined=True)
    assert not check_slots(EIGHT, head_with_cpus)
    assert check_slots(EIGHT, replace(head_with_cpus, gpus_to_come=64))
    with pytest.raises(ConfigError, match=r"use --scaling.device cuda or --scaling.device cpu"):
        check_slots(EIGHT, replace(head_with_cpus, gpus_to_come=math.inf))


def test_nodes_that_kuberay_starts_again_have_a_while_to_join_and_no_others(monkeypatch, capsys):
    scaling = ScalingConfig(workers=8, device="cuda")
    one, all_of_them = ClusterInfo(8, 4, joined=True), ClusterInfo(16, 8, joined=True)
    clock = iter(range(0, 10_000, 50))
    monkeypatch.setattr(ranks, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None))
    looks = iter([one, all_of_them])
    monkeypatch.setattr(ranks, "look", lambda joined: next(looks))
    monkeypatch.delenv("KUBERAY_GEN_RAY_START_CMD", raising=False)
    with pytest.raises(ConfigError, match="need 8 GPUs"):
        ranks.wait_for_slots(scaling, one)
    monkeypatch.setenv("KUBERAY_GEN_RAY_START_CMD", "ray start --head")
    assert ranks.wait_for_slots(scaling, one) == (all_of_them, True)
    assert capsys.readouterr().out.count("there are 4; use") == 1
    monkeypatch.setattr(ranks, "look", lambda joined: one)
    with pytest.raises(ConfigError, match="need 8 GPUs"):  # not for ever
        ranks.wait_for_slots(scaling, one)
    nothing = ClusterInfo(0, 0, joined=True, cpus_to_come=math.inf, gpus_to_come=math.inf)
    monkeypatch.setattr(ranks, "look", lambda joined: all_of_them)
    assert ranks.wait_for_slots(replace(scaling, device="auto"), nothing) == (all_of_them, True)
    monkeypatch.setenv("KUBERAY_GEN_RAY_START_CMD", "ray start --head --no-monitor")
    with pytest.raises(ConfigError, match="grows to 4"):  # an autoscaler has said how far it goes
        ranks.wait_for_slots(scaling, replace(one, gpus=0, gpus_to_come=4))
