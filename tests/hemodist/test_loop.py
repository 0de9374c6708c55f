"""The loop without Ray: resuming, masking, diverging."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hemodist import loop
from hemodist.config import AugmentConfig, BatchConfig, MixConfig, ModelConfig, OptimConfig, Run, ScalingConfig
from hemodist.config import TrackingConfig as Tracking
from hemodist.errors import ConfigError
from hemodist.loop import DivergedError, Training
from hemodist.manifest import DataSet
from hemodist.prepare import prepare
from hemodist.world import World
from tests.dataset import make_dataset


def run_of(folder: Path, **changes) -> Run:
    run = Run(
        name="x",
        output=str(folder / "runs"),
        batch=BatchConfig(global_batch_size=16, mix_group=8, block_shards=2),
        augment=AugmentConfig(min_crop_area=0.6, flip_horizontal=0.5),
        mix=MixConfig("cutmix", probability=0.5),
        model=ModelConfig(name="resnet18", image_size=32, ema_decay=0.9),
        optim=OptimConfig(lr=1e-3, epochs=2),
        scaling=ScalingConfig(workers=0),
        tracking=Tracking(mode="disabled", log_every=3),
    )
    run = replace(run, data=replace(run.data, dataset=str(folder / "data"), decode_threads=1))
    return replace(run, **changes)


def silent(event) -> None:
    """A `Tell` that nobody hears."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("loop")
    make_dataset(folder / "data", samples=100)
    return folder


def weights(run: Run) -> dict[str, torch.Tensor]:
    training = Training(run, World.alone(), silent)
    training.resume()
    assert training.step == training.total
    return dict(training.network.state_dict()) | {f"ema.{k}": v for k, v in training.scored.state_dict().items()}


def test_a_run_that_was_killed_gives_the_undisturbed_weights_bit_for_bit(folder, monkeypatch):
    checkpoint = replace(run_of(folder).checkpoint, every_steps=2)
    undisturbed = run_of(folder, name="undisturbed", checkpoint=checkpoint)
    conclusion = loop.train(undisturbed, World.alone(), silent)
    killed = replace(undisturbed, name="killed")
    update = Training.update
    for step in (3, 8):  # of 11; the second attempt goes on from the first one's checkpoint

        def dying(self, batch, step=step):
            update(self, batch)
            if batch.number == step:
                raise KeyboardInterrupt

        monkeypatch.setattr(Training, "update", dying)
        with pytest.raises(KeyboardInterrupt):
            loop.train(killed, World.alone(), silent)
    monkeypatch.setattr(Training, "update", update)
    said = []
    again = loop.train(killed, World.alone(), said.append)
    assert any("going on at step 8 of" in event.get("text", "") for event in said)
    expected = weights(undisturbed)
    for name, value in weights(killed).items():
        assert torch.equal(value, expected[name]), name
    assert again.summary() == conclusion.summary()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": BatchConfig(global_batch_size=32, mix_group=8, block_shards=2)}, "batch.global_batch_size was 16"),
        ({"optim": OptimConfig(lr=9.0, epochs=2)}, "optim.lr was 0.001, is 9.0"),
        ({"model": ModelConfig(name="resnet34", image_size=32)}, "model.name was resnet18"),
        ({"seed": 5}, "seed was 0, is 5"),
    ],
)
def test_a_changed_run_does_not_go_on_in_silence(folder, change, message):
    run = run_of(folder, name="changed", optim=OptimConfig(lr=1e-3, epochs=2))
    training = Training(run, World.alone(), silent)
    training.resume()
    training.update(next(training.batches()))
    training.save()
    with pytest.raises(ConfigError, match=message):
        loop.train(replace(run, **change), World.alone(), silent)


def test_masked_samples_are_said_counted_and_not_scored(tmp_path):
    make_dataset(tmp_path / "data", samples=100)
    dataset = DataSet.open(str(tmp_path / "data"))
    run = run_of(tmp_path)
    run = replace(run, data=replace(run.data, on_corrupt="mask"))
    parts = prepare(run).split
    for row in [*parts.train[:3], *parts.valid[:2]]:
        shard = tmp_path / "data" / dataset.manifest.shards[int(dataset.column("shard")[row])].name
        content = bytearray(shard.read_bytes())
        content[int(dataset.column("offset")[row]) + 40] ^= 1
        shard.write_bytes(content)
    said = []
    conclusion = loop.train(run, World.alone(), said.append)
    notes = [event["text"] for event in said if event["kind"] == "note"]
    assert sum("masked out" in note for note in notes) == 3
    assert f"2 of {len(parts.valid)} samples are corrupt and are not scored" in notes
    assert conclusion.scores.slices == len(parts.valid) - 2


def test_a_run_that_diverges_says_what_to_change(folder):
    run = run_of(
        folder, name="diverging", model=ModelConfig(name="squeezenet1_1", image_size=32),
        optim=OptimConfig(name="sgd", lr=100.0, epochs=5, schedule="constant", warmup_steps=0),
    )  # fmt: skip
    with pytest.raises(DivergedError, match=r"lower optim.lr \(now 100\)"):
        loop.train(run, World.alone(), silent)


def test_a_batch_larger_than_the_training_split_is_refused(folder):
    run = run_of(folder, batch=BatchConfig(global_batch_size=128, mix_group=8))
    with pytest.raises(ConfigError, match=r"more than the \d+ training slices"):
        prepare(run)


def test_dropout_is_repeated_after_a_restart(folder):
    run = run_of(folder, name="dropout", model=ModelConfig(name="alexnet", image_size=64), optim=OptimConfig(lr=1e-4))
    losses = []
    for _ in range(2):
        training = Training(run, World.alone(), silent)
        training.resume()
        torch.manual_seed(len(losses))  # whatever the process has drawn before
        training.update(next(training.batches()))
        losses.append(training.epoch_loss.item())
    assert losses[0] == losses[1]
    assert np.isfinite(losses[0])
