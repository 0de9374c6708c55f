"""The loop without Ray: resuming, masking, diverging."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hemodist.cluster.ownership import OvertakenError, claim
from hemodist.config.data import AugmentConfig, BatchConfig, MixConfig
from hemodist.config.operation import CheckpointConfig, ScalingConfig
from hemodist.config.operation import TrackingConfig as Tracking
from hemodist.config.run import Run
from hemodist.config.training import ModelConfig, OptimConfig, StopConfig
from hemodist.dataset.dataset import DataSet
from hemodist.errors import ConfigError
from hemodist.events import EpochDone, Note
from hemodist.models.checkpoints import Checkpoints
from hemodist.models.trained import open_trained
from hemodist.plan.prepare import prepare
from hemodist.scoring.run_network import run_over_split
from hemodist.scoring.write_results import probability_of
from hemodist.storage.store import Store
from hemodist.training import loop
from hemodist.training.divergence import DivergedError
from hemodist.training.loop import Training
from hemodist.training.optimizer import Rates
from hemodist.world import World
from tests.support.dataset import make_dataset

PARTS = "hemodist.training."


def run_of(folder: Path, **changes) -> Run:
    run = Run(
        name="x",
        output=str(folder / "runs"),
        batch=BatchConfig(global_batch_size=16, mix_group=8, block_shards=2),
        augment=AugmentConfig(min_crop_area=0.6, flip_horizontal=0.5),
        mix=MixConfig("cutmix", probability=0.5),
        model=ModelConfig(name="shufflenet_v2_x0_5", image_size=32, ema_decay=0.9),  # batch norm, and small files
        optim=OptimConfig(lr=1e-3, epochs=2),
        scaling=ScalingConfig(workers=0),
        tracking=Tracking(mode="disabled", log_every=3),
    )
    run = replace(run, data=replace(run.data, dataset=str(folder / "data"), decode_threads=1))
    return replace(run, **changes)


def silent(event) -> None:
    """A `Tell` that nobody hears."""


def notes(said) -> list[str]:
    return [event.text for event in said if isinstance(event, Note)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("loop")
    make_dataset(folder / "data", samples=100)
    return folder


def weights(run: Run) -> dict[str, torch.Tensor]:
    training = Training(run, World.alone(), silent)
    assert training.step == training.total
    return dict(training.learner.network.state_dict()) | {
        f"ema.{k}": v for k, v in training.learner.validated.state_dict().items()
    }


def test_a_run_that_was_killed_gives_the_undisturbed_weights_bit_for_bit(folder, monkeypatch):
    checkpoint = replace(run_of(folder).checkpoint, every_steps=2)
    undisturbed = run_of(folder, name="undisturbed", checkpoint=checkpoint)
    results = loop.train(undisturbed, World.alone(), silent)
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
    assert any("going on at step 8 of" in text for text in notes(said))
    expected = weights(undisturbed)
    for name, value in weights(killed).items():
        assert torch.equal(value, expected[name]), name
    assert again.summary() == results.summary()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": BatchConfig(global_batch_size=32, mix_group=8, block_shards=2)}, "batch.global_batch_size was 16"),
        ({"optim": OptimConfig(lr=9.0, epochs=2)}, "optim.lr was 0.001, is 9.0"),
        ({"model": ModelConfig(name="resnet34", image_size=32)}, "model.name was shufflenet_v2_x0_5"),
        ({"seed": 5}, "seed was 0, is 5"),
    ],
)
def test_a_changed_run_does_not_go_on_in_silence(folder, change, message):
    run = run_of(folder, name="changed", optim=OptimConfig(lr=1e-3, epochs=2))
    training = Training(run, World.alone(), silent)
    training.update(next(training.batches()))
    training.save()
    training.checkpoints.wait()
    with pytest.raises(ConfigError, match=message):
        loop.train(replace(run, **change), World.alone(), silent)


def test_a_run_that_another_driver_has_taken_over_ends_and_changes_nothing_of_it(folder, monkeypatch):
    run = run_of(folder, name="overtaken", checkpoint=CheckpointConfig(every_steps=2))
    run = replace(run, tracking=replace(run.tracking, ledger=True))
    place = Path(run.output, run.name)
    world = replace(World.alone(), check_owner=claim(str(place)).check)
    left: dict[Path, bytes] = {}

    def take_over(training: Training) -> None:
        training.checkpoints.wait()
        claim(str(place))
        (place / "checkpoints" / "step-00000099.pt").write_bytes(b"the other driver is writing this")
        left.clear()
        left.update({path: path.read_bytes() for path in place.rglob("*") if path.is_file()})

    update = Training.update

    def overtaken(self, batch):
        if batch.number == 2:
            take_over(self)
        return update(self, batch)

    for patched in (overtaken, update):  # while it trains, and when its workers are started again after that
        monkeypatch.setattr(Training, "update", patched)
        with pytest.raises(OvertakenError, match="another driver has gone on with"):
            loop.train(run, world, silent)
        assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == left
    assert place / "checkpoints" / "step-00000002.pt" in left
    conclude = Training.finish

    def overtaken_at_the_end(self):
        take_over(self)
        return conclude(self)

    monkeypatch.setattr(Training, "finish", overtaken_at_the_end)
    world = replace(world, check_owner=claim(str(place)).check)
    with pytest.raises(OvertakenError):
        loop.train(run, world, silent)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == left


def parts_of(training: Training) -> dict[str, object]:
    """The run itself and what it is made of, as far as it is of the training room."""
    parts = {name: part for name, part in vars(training).items() if type(part).__module__.startswith(PARTS)}
    return {"training": training, **parts}


def test_no_attribute_appears_after_construction(folder):
    run = run_of(folder, name="whole", checkpoint=CheckpointConfig(every_steps=2), optim=OptimConfig(lr=1e-3, epochs=1))
    run = replace(run, tracking=replace(run.tracking, ledger=True))
    for _ in ("new", "goes on"):
        training = Training(run, World.alone(), silent)
        parts = parts_of(training)
        assert {"learner", "epoch", "divergence", "checkpoints", "validation"} <= parts.keys()
        built = {name: set(vars(part)) for name, part in parts.items()}
        for batch in training.batches():
            training.update(batch)
            epoch = training.epoch_ended()
            if epoch is not None:
                training.validate(epoch)
            if not training.must_leave(epoch) and training.save_is_due():
                training.save()
        training.finish()
        assert {name: set(vars(part)) for name, part in parts.items()} == built
        assert parts_of(training).keys() == parts.keys()


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
    results = loop.train(run, World.alone(), said.append)
    assert sum("masked out" in note for note in notes(said)) == 3
    assert f"2 of {len(parts.valid)} samples are corrupt and are not scored" in notes(said)
    assert results.scores.slices == len(parts.valid) - 2


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
        torch.manual_seed(len(losses))  # whatever the process has drawn before
        training.update(next(training.batches()))
        losses.append(training.epoch.totals()[0])
    assert losses[0] == losses[1]
    assert np.isfinite(losses[0])


def test_a_run_stops_early_scores_both_weights_and_stays_stopped(folder):
    # A learning rate near 0 changes the weights, but no epoch's accuracy.
    run = run_of(
        folder, name="early", optim=OptimConfig(lr=1e-9, epochs=6), mix=MixConfig("none"),
        model=ModelConfig(name="squeezenet1_1", image_size=32, ema_decay=0.9),
        stop=StopConfig(score="accuracy_multi", patience=2),
    )  # fmt: skip
    said = []
    loop.train(run, World.alone(), said.append)
    history = json.loads((folder / "runs/early/history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert any("2 epochs without a better accuracy_multi" in text for text in notes(said))
    for name in ("weighted_log_loss", "auc_any", "accuracy_multi"):
        assert {name, f"raw_{name}"} <= history[0].keys()
    report = (folder / "runs/early/report.html").read_text()
    assert "Stopped early" in report
    assert f"The raw weights of the same step: {history[0]['raw_weighted_log_loss']:.4f}" in report
    again = []
    loop.train(run, World.alone(), again.append)
    assert not [event for event in again if isinstance(event, EpochDone)]


def test_the_raw_scores_are_those_of_the_raw_weights(folder):
    training = Training(run_of(folder, name="raw"), World.alone(), silent)
    for batch in training.batches():
        training.update(batch)
        if training.epoch_ended() is not None:
            break
    training.validate(0)
    row = training.history[0]
    validation = training.validation
    for name, network in (
        ("raw_weighted_log_loss", training.learner.network),
        ("weighted_log_loss", training.learner.ema.module),
    ):
        scores = validation.scores(validation.predict(network, training.step))
        assert row[name] == scores["weighted_log_loss"]
    assert row["raw_weighted_log_loss"] != row["weighted_log_loss"]


def test_checkpoints_by_the_clock_are_made_where_the_figures_of_a_logged_step_are_there(folder):
    run = run_of(folder, name="clock", checkpoint=CheckpointConfig(every_minutes=1e-6, keep=100))
    loop.train(run, World.alone(), silent)
    steps = {record.step for record in Checkpoints(Store.open(f"{run.output}/{run.name}"), 1).records()}
    assert steps == {5, 6, 11}  # log_every 3, two steps later; 6 and 11 end an epoch


def test_a_score_that_is_not_defined_is_null_in_the_history(tmp_path):
    make_dataset(tmp_path / "data", samples=60, positive=0.0)
    loop.train(run_of(tmp_path, optim=OptimConfig(lr=1e-4, epochs=1)), World.alone(), silent)
    text = (tmp_path / "runs/x/history.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)[0]["auc_any"] is None


def test_pretrained_weights_are_not_asked_for_when_a_run_goes_on(folder, tmp_path):
    donor = Training(run_of(folder, name="donor"), World.alone(), silent).learner.network.state_dict()
    torch.save(donor, tmp_path / "w.pt")
    run = run_of(folder, name="pretrained")
    run = replace(run, model=replace(run.model, weights=str(tmp_path / "w.pt")))
    training = Training(run, World.alone(), silent)
    assert torch.equal(training.learner.network.conv1[0].weight, donor["conv1.0.weight"])
    assert torch.equal(training.learner.ema.module.conv1[0].weight, donor["conv1.0.weight"])
    training.update(next(training.batches()))
    training.save()
    training.checkpoints.wait()
    (tmp_path / "w.pt").unlink()
    again = Training(run, World.alone(), silent)
    assert again.step == 1
    assert torch.equal(again.learner.network.conv1[0].weight, training.learner.network.conv1[0].weight)


def test_steps_without_an_update_are_counted_and_after_some_in_a_row_the_samples_are_named(folder):
    run = run_of(folder, name="nonfinite", model=ModelConfig(name="alexnet", image_size=64))
    run = replace(run, optim=OptimConfig(lr=1e-5, max_nonfinite=2))
    said = []
    training = Training(run, World.alone(), said.append)
    batches = training.batches()
    first, second, third = (next(batches) for _ in range(3))
    weights_before = [p.detach().clone() for p in training.learner.network.parameters()]
    training.update(replace(first, images=first.images * float("inf")))
    assert all(torch.equal(p, q) for p, q in zip(training.learner.network.parameters(), weights_before, strict=True))
    training.update(second)
    training.catch_up()
    assert (training.divergence.skipped, training.divergence.nonfinite) == (1, 0)
    assert training.epoch.totals()[1] == len(second.rows)  # what was skipped does not dilute the mean loss
    training.update(replace(third, images=third.images * float("inf")))
    keys = training.prepared.dataset.index.column("key").take(third.rows).to_pylist()
    training.update(replace(third, images=third.images * float("inf"), number=3))
    with pytest.raises(DivergedError, match=f"2 steps in a row.*{keys[0]}"):
        training.save()  # which looks first at what nobody has looked at
    assert any(keys[0] in text for text in notes(said))


@pytest.mark.parametrize("optim", ["adamw", "sgd"])
def test_a_skipped_step_leaves_weights_momentum_and_average_as_if_it_had_not_been(folder, optim):
    """The first step, for which an optimizer has no state yet, and a later one."""
    run = run_of(folder, name=f"skips-{optim}", model=ModelConfig(name="squeezenet1_1", image_size=32, ema_decay=0.9))
    run = replace(run, optim=OptimConfig(name=optim, lr=1e-3))
    with_skips, without = (Training(run, World.alone(), silent).learner for _ in range(2))
    for learner in (with_skips, without):
        for module in learner.network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    batches, rates = Training(run, World.alone(), silent).batches(), Rates(1e-3, 0.9)
    for number in range(4):
        batch = next(batches)
        if number in (0, 2):
            with_skips.step(replace(batch, images=batch.images * float("nan")), rates)
        else:
            with_skips.step(batch, rates)
            without.step(batch, rates)
    expected = without.state()
    for part in ("model", "ema"):
        for name, value in with_skips.state()[part].items():
            assert torch.equal(value, expected[part][name]), name
    for index, tensors in with_skips.optimizer.state_dict()["state"].items():
        for name, value in tensors.items():
            assert torch.equal(value, expected["optimizer"]["state"][index][name]), name


def test_a_checkpoint_right_behind_a_skipped_step_holds_its_count(folder):
    run = run_of(folder, name="skipped", model=ModelConfig(name="alexnet", image_size=64))
    training = Training(run, World.alone(), silent)
    batch = next(training.batches())
    training.update(replace(batch, images=batch.images * float("inf")))
    training.save()
    training.checkpoints.wait()
    again = Training(run, World.alone(), silent).divergence
    assert (again.skipped, again.nonfinite) == (1, 1)


def test_a_profiled_run_leaves_a_trace_with_the_parts_of_a_step_and_the_same_weights(folder):
    plain, profiled = run_of(folder, name="plain"), run_of(folder, name="profiled")
    profiled = replace(profiled, tracking=replace(profiled.tracking, profile=3))
    said = []
    results = [loop.train(run, World.alone(), said.append).summary() for run in (plain, profiled)]
    assert results[0] == results[1]
    trace = gzip.decompress((folder / "runs/profiled/profile/trace.json.gz").read_bytes())
    names = [event.get("name") for event in json.loads(trace)["traceEvents"]]
    for part in ("data", "forward", "backward", "optimizer"):
        assert names.count(part) == 3, part
    assert any("profile/trace.json.gz" in text for text in notes(said))
    assert not (folder / "runs/plain/profile").exists()


def test_a_run_with_a_test_fold_leaves_the_best_checkpoints_answers_on_it_and_shows_none(folder):
    run = run_of(folder, name="held")
    run = replace(run, data=replace(run.data, test_fold=1))
    told = []
    results = loop.train(run, World.alone(), told.append)
    split = prepare(run).split
    table = pq.read_table(folder / "runs/held/test_predictions.parquet")
    keys = DataSet.open(run.data.dataset).index.column("key").take(pa.array(split.test))
    assert table["key"].to_pylist() == keys.to_pylist()
    assert results.scores.slices == len(split.valid)
    trained = open_trained(str(folder / "runs/held"))
    again = run_over_split(trained.network, DataSet.open(run.data.dataset), split.test, run, World.alone(), silent)
    np.testing.assert_allclose(table["any"].to_numpy(), probability_of(again)[:, 0], atol=1e-6)
