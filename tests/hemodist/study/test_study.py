"""What a study is made of, and what it refuses."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from hemodist.cluster.session import ClusterInfo
from hemodist.config.data import DataConfig
from hemodist.config.operation import ScalingConfig
from hemodist.errors import ConfigError
from hemodist.launch.many_runs import is_finished, runs_at_a_time
from hemodist.models.fold_runs import FINISHED
from hemodist.plan.prepare import prepare
from hemodist.storage.store import Store, join
from hemodist.study.options import SYSTEMS, Study
from hemodist.study.study import conduct
from tests.support.dataset import make_dataset

SMALL = Study(
    recipes=("resnet18", "resnet34"), seeds=(0, 1), epochs=2, image_size=32, global_batch_size=32, weights="none"
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    return str(make_dataset(tmp_path_factory.mktemp("study") / "dataset"))


def test_the_studys_own_systems_are_the_default():
    assert SYSTEMS == (
        "resnet18", "alexnet", "alexnet_lr_found", "resnet34", "resnet34_silu", "densenet161", "densenet161_cutmix",
    )  # fmt: skip
    assert {run.name.rpartition("-s")[0] for run in Study().runs()} == set(SYSTEMS)


def test_all_runs_share_data_split_and_what_the_study_sets_and_keep_their_own_rest():
    study = replace(SMALL, recipes=SYSTEMS, data=DataConfig(dataset="d", subset=100, valid_fold=3))
    runs = study.runs()
    assert len(runs) == 2 * len(SYSTEMS)
    assert len({run.name for run in runs}) == len(runs)
    for run in runs:
        assert run.data == study.data
        assert (run.optim.epochs, run.model.image_size, run.batch.global_batch_size) == (2, 32, 32)
    by_name = {run.name: run for run in runs}
    assert by_name["resnet34_silu-s1"].model.activation == "silu"
    assert by_name["densenet161_cutmix-s0"].mix.kind == "cutmix"
    assert by_name["alexnet-s1"].optim.lr == 1e-4 * math.sqrt(32 / 64)  # its own is for batches of 64
    assert [run.seed for run in runs] == [0] * len(SYSTEMS) + [1] * len(SYSTEMS)


def test_without_flags_every_recipe_keeps_its_own_sizes():
    run = replace(SMALL, epochs=None, image_size=None, global_batch_size=None).runs()[0]
    assert (run.optim.epochs, run.model.image_size, run.batch.global_batch_size) == (4, 256, 64)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipes": ("resnet19",)}, "recipes resnet19: there are none of that name; use demo"),
        ({"recipes": ()}, "nothing to compare"),
        ({"seeds": ()}, "nothing to compare"),
        ({"seeds": (1, 1)}, "seeds 1 1: give each one once"),
        ({"at_once": 0}, "at_once 0"),
        ({"replicates": 10}, "replicates 10 is out of range"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        replace(SMALL, **changes).runs()


@pytest.mark.parametrize(
    ("scaling", "cluster", "gpu", "runs"),
    [
        (ScalingConfig(workers=1), ClusterInfo(2, 0, False), False, 2),
        (ScalingConfig(workers=2, cpus_per_worker=3), ClusterInfo(16, 0, False), False, 2),
        (ScalingConfig(workers=2), ClusterInfo(64, 8, True), True, 4),
        (ScalingConfig(workers=2, cpus_per_worker=8), ClusterInfo(32, 8, True), True, 2),
        (ScalingConfig(workers=8), ClusterInfo(8, 8, True), True, 1),
        (ScalingConfig(workers=8), ClusterInfo(0, 0, True, 64, 24), True, 3),
        (ScalingConfig(workers=8), ClusterInfo(0, 0, True, math.inf, math.inf), True, 1),
    ],
)
def test_as_many_runs_at_a_time_as_there_are_slots_for(scaling, cluster, gpu, runs):
    assert runs_at_a_time(scaling, cluster, gpu=gpu) == runs


def test_no_data_set_is_said_before_anything_starts():
    with pytest.raises(ConfigError, match=r"add --data\.dataset PATH"):
        conduct(SMALL)


def test_a_run_is_finished_only_with_a_record_of_this_very_run(dataset, tmp_path):
    study = replace(SMALL, output=str(tmp_path), data=DataConfig(dataset=dataset))
    run = study.runs()[0]
    prepared = prepare(run)
    assert not is_finished(run, prepared)
    state = {"dataset": prepared.dataset.manifest.digest, "split": prepared.split.digest}
    store = Store.open(join(run.output, run.name))
    store.write(FINISHED, json.dumps({"run": run.to_dict(), "state": state}).encode())
    assert is_finished(run, prepared)
    longer = replace(study, epochs=3).runs()[0]
    with pytest.raises(ConfigError, match=r"optim\.epochs was 2, is 3"):
        is_finished(longer, prepare(longer))
    elsewhere = replace(study, data=DataConfig(dataset=dataset, valid_fold=1)).runs()[0]
    with pytest.raises(ConfigError, match="split was"):
        is_finished(elsewhere, prepare(elsewhere))


def test_a_finished_run_of_other_weights_is_not_taken_for_this_one(dataset, tmp_path):
    run = replace(SMALL, output=str(tmp_path), data=DataConfig(dataset=dataset)).runs()[0]
    prepared = prepare(run)
    state = {"dataset": prepared.dataset.manifest.digest, "split": prepared.split.digest}
    made = replace(run, model=replace(run.model, weights="imagenet"))
    Store.open(join(run.output, run.name)).write(FINISHED, json.dumps({"run": made.to_dict(), "state": state}).encode())
    assert is_finished(made, prepared)
    with pytest.raises(ConfigError, match=r"model\.weights was imagenet, is none"):
        is_finished(run, prepared)
