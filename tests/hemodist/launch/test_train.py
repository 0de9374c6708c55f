"""What the driver says of a run: what its labels cannot do, what is kept when it is interrupted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hemodist.config.batch_rule import follow_batch
from hemodist.config.data import BatchConfig
from hemodist.config.operation import CheckpointConfig, ScalingConfig, TrackingConfig
from hemodist.config.run import Run
from hemodist.config.training import ModelConfig, OptimConfig, StopConfig
from hemodist.dataset.labels import LABELS
from hemodist.errors import ConfigError
from hemodist.launch import train as launch
from hemodist.models.trained import open_trained
from hemodist.training import loop
from hemodist.training.loop import Training
from hemodist.world import World
from tests.support.dataset import make_dataset


def run_of(folder: Path, **changes) -> Run:
    run = Run(
        name="x",
        output=str(folder / "runs"),
        batch=BatchConfig(global_batch_size=8, mix_group=2, block_shards=2),
        model=ModelConfig(name="shufflenet_v2_x0_5", image_size=32),
        optim=OptimConfig(lr=1e-3, epochs=1),
        scaling=ScalingConfig(workers=0),
        checkpoint=CheckpointConfig(every_steps=4, every_minutes=0),
        tracking=TrackingConfig(mode="disabled", log_every=1),
    )
    return replace(run, data=replace(run.data, dataset=str(folder / "data"), decode_threads=1), **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("launch")
    make_dataset(folder / "data", samples=100)
    return folder


@pytest.fixture
def in_process(monkeypatch):
    """The ranks are this process, without Ray."""

    def run_ranks(function, argument, scaling, *, name, folder, view):
        with view:
            return function(argument, World.alone(), view)

    monkeypatch.setattr(launch, "run_ranks", run_ranks)


@pytest.mark.parametrize(
    ("name", "at", "error", "said"),
    [
        ("early", 1, KeyboardInterrupt, "interrupted at step 0 or soon after, before the first checkpoint: the same "
                                        "command begins anew"),
        ("late", 6, KeyboardInterrupt, "the newest checkpoint is of step 4: the same command goes on from there; "
                                       "few steps or none are lost"),
        ("saved", 4, SystemExit, "the newest checkpoint is of step 4: the same command goes on from there; few steps"),
    ],
)  # fmt: skip
def test_an_interrupted_run_says_what_is_kept_and_what_is_lost(
    folder, in_process, monkeypatch, capsys, name, at, error, said
):
    update = Training.update

    def interrupted(self, batch):
        if batch.number == at:
            raise error
        return update(self, batch)

    monkeypatch.setattr(Training, "update", interrupted)
    with pytest.raises(error):
        launch.train(run_of(folder, name=name))
    assert said in capsys.readouterr().out


def test_what_the_labels_cannot_do_is_said_before_the_first_epoch(tmp_path, in_process, capsys):
    make_dataset(tmp_path / "data", samples=60, unknown=("subdural",), positive=0.0)
    launch.train(run_of(tmp_path))
    start = capsys.readouterr().out.partition("train_loss")[0]
    assert "subdural unknown" in start
    assert "note: the training split has no positive of any, epidural" in start
    assert "nothing known of subdural" in start
    assert f"note: validation fold 0 has no positive of {LABELS[0]}" in start
    with pytest.raises(ConfigError, match="auc_any cannot choose a checkpoint"):
        launch.train(run_of(tmp_path, name="by-auc", stop=StopConfig(score="auc_any")))


def test_other_micro_batches_are_refused_where_there_is_batch_norm_and_accepted_where_there_is_none(
    folder, in_process, monkeypatch
):
    for name, network, refused in (("bn", "shufflenet_v2_x0_5", True), ("plain", "squeezenet1_1", False)):
        run = run_of(folder, name=name, model=ModelConfig(name=network, image_size=32))
        training = Training(run, World.alone(), lambda event: None)
        training.update(next(training.batches()))
        training.save()
        training.checkpoints.wait()
        other = replace(run, batch=replace(run.batch, accumulate=2))
        if refused:
            with pytest.raises(ConfigError, match=r"batch\.accumulate was 1, is 2"):
                launch.train(other)
            with pytest.raises(ConfigError, match=r"batch\.accumulate was 1, is 2"):
                loop.train(other, World.alone(), lambda event: None)
        else:
            launch.train(other)


def test_a_run_goes_on_from_a_checkpoint_whose_record_is_damaged_and_names_it(folder, in_process, capsys):
    run = run_of(folder, name="record")
    training = Training(run, World.alone(), lambda event: None)
    training.update(next(training.batches()))
    training.save()
    training.checkpoints.wait()
    record = folder / "runs/record/checkpoints/step-00000001.json"
    content = record.read_bytes()
    record.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    launch.train(run)
    said = capsys.readouterr().out
    assert "step-00000001.json of a checkpoint is damaged" in said
    assert "going on at step 1 of" in said


def test_a_rate_that_follows_the_batch_is_in_the_table_and_the_run_goes_on_with_it(folder, in_process, capsys):
    recipe = run_of(folder, name="follows")
    run, lr_from = follow_batch(replace(recipe, batch=replace(recipe.batch, global_batch_size=32)), recipe)
    launch.train(run, lr_from)
    assert "0.002, the recipe's 0.001 times sqrt(32 / 8)" in capsys.readouterr().out
    assert open_trained(str(folder / "runs/follows")).run.optim.lr == 0.002
    launch.train(run, lr_from)
    with pytest.raises(ConfigError, match=r"optim\.lr was 0\.002, is 0\.001"):
        launch.train(replace(run, optim=recipe.optim))
