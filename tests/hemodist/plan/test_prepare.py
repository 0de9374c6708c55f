"""What follows from a run before any worker starts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hemodist.config.data import BatchConfig, DataConfig
from hemodist.config.fields import fields_of
from hemodist.config.operation import ScalingConfig
from hemodist.config.run import Run, check
from hemodist.config.training import OptimConfig, StopConfig
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.digest import sha256
from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.errors import ConfigError
from hemodist.metrics.log_loss import weighted_log_loss
from hemodist.plan.prepare import check_choice, check_resume, fold_runs, prepare, prevalence, selected
from hemodist.plan.split import fold_of
from tests.support.dataset import make_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), samples=400, patients=80, per_shard=50)


def run_of(folder: Path, **data) -> Run:
    return Run(
        name="x",
        data=DataConfig(dataset=str(folder), **data),
        batch=BatchConfig(global_batch_size=16, mix_group=4, block_shards=2),
        optim=OptimConfig(epochs=3),
        scaling=ScalingConfig(workers=1),
    )


def test_every_usable_slice_validates_in_exactly_one_of_the_fold_runs_and_the_test_fold_in_none(folder):
    runs = fold_runs(run_of(folder, folds=5, test_fold=2))
    assert [run.name for run in runs] == ["x-fold0", "x-fold1", "x-fold3", "x-fold4"]
    parts = [prepare(run).split for run in runs]
    held_out = parts[0].test
    assert len(held_out) > 40
    assert all(np.array_equal(part.test, held_out) for part in parts)
    validated = np.concatenate([part.valid for part in parts])
    assert sorted([*validated, *held_out]) == list(range(400))
    assert len({part.digest for part in parts}) == 4


def test_a_balanced_selection_takes_as_many_negatives_as_positives_that_are_used(folder):
    labels = DataSet.open(str(folder)).labels()
    usable = np.ones(len(labels), bool)
    usable[np.flatnonzero(labels[:, 0] == 1)[::3]] = False  # second copies
    usable[np.flatnonzero(labels[:, 0] == 0)[::5]] = False
    chosen = selected(DataConfig(dataset="d", selection="balanced"), labels, usable)
    assert not (chosen & ~usable).any()
    assert (labels[chosen, 0] == 1).sum() == (labels[chosen, 0] == 0).sum() == (labels[usable, 0] == 1).sum()


def test_the_facts_count_slices_and_labels_of_every_part_and_fold(folder):
    run = run_of(folder, folds=4, test_fold=3)
    facts = prepare(run).facts(run)
    assert set(facts["split"]) == {"train", "valid", "test"}
    labels = DataSet.open(str(folder)).labels()
    for label in ("split", "fold"):
        assert sum(part["slices"] for part in facts[label].values()) == 400
        assert sum(part["any"] for part in facts[label].values()) == (labels[:, 0] == 1).sum()
    assert facts["fold"]["3"]["slices"] == facts["split"]["test"]["slices"]
    assert facts["sampling"] == "every training slice once an epoch"


@pytest.mark.parametrize(
    ("sampling", "weights"), [("balanced", (1, 1, 1, 1, 1, 1)), ("weighted", (1, 9, 1, 1, 1, 1)), ("uniform", (1,) * 6)]
)
def test_sampling_is_a_field_of_the_run_and_leaves_the_length_of_an_epoch_alone(folder, sampling, weights):
    run = run_of(folder)
    run = replace(run, batch=replace(run.batch, sampling=sampling, label_weights=weights))
    prepared = prepare(run)
    assert prepared.total_steps == prepare(run_of(folder)).total_steps
    read = np.bincount(prepared.plan.order(0), minlength=400)
    assert read.sum() == len(prepared.split.train)
    bleeds = read[prepared.labels[:, 0] == 1].mean()  # 40 % of the slices
    assert bleeds > 1.2 if sampling != "uniform" else bleeds <= 1
    assert prepared.facts(run)["sampling"].startswith("every" if sampling == "uniform" else sampling)
    assert Run.from_dict(run.to_dict()) == run


def test_weights_that_leave_nothing_are_refused(folder):
    run = run_of(folder)
    for weights in ((1001, 1, 1, 1, 1, 1), (-1, 1, 1, 1, 1, 1)):
        with pytest.raises(ConfigError, match=r"batch.label_weights -?\d+ is out of range; use 0 to 1000"):
            check(replace(run, batch=replace(run.batch, sampling="weighted", label_weights=weights)))


def test_json_lists_become_what_they_were(folder):
    run = run_of(folder)
    values = run.to_dict()
    values["batch"]["label_weights"] = list(values["batch"]["label_weights"])
    assert Run.from_dict(values) == run


def test_a_cache_bound_of_nothing_is_out_of_range(folder):
    with pytest.raises(ConfigError, match=r"data.cache_gb 0 is out of range"):
        check(run_of(folder, cache_gb=0))


def test_a_warm_up_longer_than_the_run_is_refused(folder):
    run = replace(run_of(folder), optim=OptimConfig(epochs=1, warmup_steps=500))
    with pytest.raises(ConfigError, match=r"warmup_steps 500 would last longer than the run's \d+ steps"):
        prepare(run)


def test_the_constant_answer_of_a_label_that_training_never_saw_is_no_infinite_error(folder):
    labels = np.zeros((300, 6), np.int8)
    labels[:60, 0] = 1
    labels[:, 5] = UNKNOWN
    constant = prevalence(labels)
    assert constant[0] == 0.2  # where both kinds occur it is the share
    assert (constant[1:5] == 0.5 / 301).all()
    assert constant[5] == 0.5
    some = np.zeros((200, 6), np.int8)
    some[:40, 0] = some[:2, 1] = 1
    assert weighted_log_loss(np.broadcast_to(constant, some.shape), some) < 0.35


@pytest.mark.parametrize(
    "name",
    [
        "data.subset",
        "data.folds",
        "data.valid_fold",
        "data.test_fold",
        "batch.global_batch_size",
        "batch.mix_group",
        "batch.block_shards",
        "scaling.min_workers",
    ],
)
@pytest.mark.parametrize("end", ["low", "high"])
def test_a_number_whose_range_others_narrow_is_refused_beyond_either_end(folder, name, end):
    run = run_of(folder)
    ranges = {field.name: field.range for field in fields_of(run)}
    part, _, field = name.partition(".")
    beyond = int(ranges[name].low) - 1 if end == "low" else 2**63
    with pytest.raises(ConfigError, match=field):
        prepare(replace(run, **{part: replace(getattr(run, part), **{field: beyond})}))


def test_a_checkpoint_goes_on_with_other_fields_that_decide_nothing_and_names_those_that_do(folder):
    run = run_of(folder)
    prepared = prepare(run)
    state = {"dataset": prepared.dataset.manifest.digest, "split": prepared.split.digest}
    saved = {"run": run.to_dict(), "state": state}
    free = replace(run.batch, eval_batch_size=7, accumulate=2)
    other = replace(run, batch=free, model=replace(run.model, weights="x", compile=True))
    check_resume(saved, prepared, other, "here", batch_norm=False)
    with pytest.raises(ConfigError, match=r"optim.epochs was 3, is 4; seed was 0, is 5; use another name"):
        check_resume(
            saved, prepared, replace(run, seed=5, optim=replace(run.optim, epochs=4)), "here", batch_norm=False
        )
    with pytest.raises(ConfigError, match="split was other, is"):
        check_resume(saved | {"state": state | {"split": "other"}}, prepared, run, "here", batch_norm=False)


@pytest.mark.parametrize(
    ("accumulate", "scaling", "refused"),
    [
        (1, ScalingConfig(workers=4), ""),
        (2, ScalingConfig(workers=4), "batch.accumulate was 1, is 2, which with batch norm is another training"),
        (1, ScalingConfig(workers=2), "scaling.workers was 4, is 2, which with batch norm is another training"),
        (1, ScalingConfig(workers=0), "scaling.workers was 4, is 0"),
        (1, ScalingConfig(workers=8, min_workers=2), ""),  # the run may shrink to what it had
        (1, ScalingConfig(workers=8, min_workers=5), "scaling.workers was 4, is 8"),
    ],
)
def test_where_there_is_batch_norm_other_micro_batches_are_another_training(folder, accumulate, scaling, refused):
    run = replace(run_of(folder), scaling=ScalingConfig(workers=4))
    prepared = prepare(run)
    state = {"dataset": prepared.dataset.manifest.digest, "split": prepared.split.digest}
    saved = {"run": run.to_dict(), "state": state}
    now = replace(run, batch=replace(run.batch, accumulate=accumulate), scaling=scaling)
    check_resume(saved, prepared, now, "here", batch_norm=False)
    if refused:
        with pytest.raises(ConfigError, match=refused):
            check_resume(saved, prepared, now, "here", batch_norm=True)
    else:
        check_resume(saved, prepared, now, "here", batch_norm=True)


def test_one_worker_and_none_are_the_same_rank(folder):
    run = replace(run_of(folder), scaling=ScalingConfig(workers=1))
    prepared = prepare(run)
    saved = {
        "run": run.to_dict(),
        "state": {"dataset": prepared.dataset.manifest.digest, "split": prepared.split.digest},
    }
    check_resume(saved, prepared, replace(run, scaling=ScalingConfig(workers=0)), "here", batch_norm=True)


def test_a_fold_with_one_kind_of_any_is_told_with_the_folds_that_have_both_and_auc_cannot_choose_on_it(tmp_path):
    make_dataset(tmp_path / "data", samples=60, patients=12)
    index, labels = tmp_path / "data/index.parquet", {}
    table = pq.read_table(index)
    fold = fold_of(np.array(table["group"]), 3, 0)
    for label in LABELS:  # only fold 2 keeps its positives
        values = np.where(fold == 2, np.array(table[label]), 0).astype(np.int8)
        labels[label] = pa.array(values, table.schema.field(label).type)
    for label, column in labels.items():
        table = table.set_column(table.schema.get_field_index(label), table.schema.field(label), column)
    pq.write_table(table, index)
    manifest = json.loads((tmp_path / "data/manifest.json").read_text())
    manifest["index_sha256"] = sha256(index.read_bytes())
    (tmp_path / "data/manifest.json").write_text(json.dumps(manifest))
    run = run_of(tmp_path / "data", folds=3)
    prepared = prepare(run)
    (note,) = prepared.gaps(run)
    assert f"validation fold 0 has no positive of {', '.join(LABELS)}" in note
    assert "any 2; epidural 2" in note
    check_choice(prepared, run)
    by_auc = replace(run, stop=StopConfig(score="auc_any"))
    with pytest.raises(
        ConfigError,
        match=r"auc_any cannot choose a checkpoint: validation fold 0 has no positive of any.*"
        r"any 2.*use another data.valid_fold",
    ):
        check_choice(prepared, by_auc)
    told = replace(by_auc, data=replace(run.data, valid_fold=2))
    (training,) = prepare(told).gaps(told)  # now the training split lacks them
    assert training.startswith("the training split has no positive of any")
    check_choice(prepare(told), told)
