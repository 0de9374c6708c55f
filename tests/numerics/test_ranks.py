"""One rank and several give the same parameters and the same scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hemodist.config.data import AugmentConfig, BatchConfig, MixConfig
from hemodist.config.operation import ScalingConfig, TrackingConfig
from hemodist.config.run import Run
from hemodist.config.training import ModelConfig, OptimConfig
from hemodist.errors import ConfigError
from hemodist.training.loop import Training
from hemodist.world import World
from tests.support.dataset import make_dataset
from tests.support.ranks import run_ranks


def run_of(folder: Path, **changes) -> Run:
    """A run without batch norm and dropout, which see the rank's share and not the batch."""
    run = Run(
        name="x",
        output=str(folder / "runs"),
        batch=BatchConfig(global_batch_size=64, mix_group=8, block_shards=2),
        augment=AugmentConfig(min_crop_area=0.6, flip_horizontal=0.5, rotation_degrees=10.0, contrast=0.1),
        mix=MixConfig("cutmix", probability=0.5),
        model=ModelConfig(name="squeezenet1_1", image_size=32),
        # SGD: AdamW divides by the gradient's own size, so that rounding of near-zero gradients would show.
        optim=OptimConfig(name="sgd", lr=1e-3, epochs=12, schedule="constant", warmup_steps=0),
        tracking=TrackingConfig(mode="disabled", log_every=5),
    )
    run = replace(run, data=replace(run.data, dataset=str(folder / "data"), decode_threads=1))
    return replace(run, **changes)


def twenty_steps(world: World, run: Run) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Parameters after 20 steps, and the validation logits."""
    training = Training(run, world, lambda event: None)
    for module in training.learner.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for batch in training.batches():
        training.update(batch)
        if training.step == 20:
            break
    assert training.step == 20
    return {name: p.detach().numpy() for name, p in training.learner.network.named_parameters()}, validated(training)


def validated(training: Training) -> np.ndarray:
    """Logits of the validation split."""
    return training.validation.predict(training.learner.validated, training.step).logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    make_dataset(folder / "data", samples=150)
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    return run_ranks(twenty_steps, 1, run_of(folder))[0]


@pytest.mark.parametrize(("ranks", "accumulate"), [(1, 4), (2, 1), (2, 4), (3, 2)])
def test_any_number_of_ranks_and_micro_batches_gives_the_same_parameters(folder, alone, ranks, accumulate):
    # Eight mix groups over three ranks: the shares are uneven.
    run = run_of(folder)
    run = replace(run, batch=replace(run.batch, accumulate=accumulate), scaling=ScalingConfig(workers=ranks))
    results = run_ranks(twenty_steps, ranks, run)
    expected, logits = alone
    for parameters, _ in results:
        for name, value in parameters.items():
            assert np.allclose(value, expected[name], rtol=0, atol=5e-6), name
    for _, own_logits in results:
        assert np.array_equal(own_logits, results[0][1])  # gathered: the same on every rank
    assert np.allclose(results[0][1], logits, atol=2e-4)


def test_gradients_that_travel_as_bf16_are_the_same_but_for_its_rounding(folder, alone):
    run = run_of(folder, scaling=ScalingConfig(workers=2, gradients="bf16"))
    results = run_ranks(twenty_steps, 2, run)
    differences = []
    for name, value in results[0][0].items():
        assert np.array_equal(value, results[1][0][name]), name
        differences.append(np.abs(value - alone[0][name]).max())
    assert 5e-6 < max(differences) < 1e-3


def trained_and_reloaded(world: World, run: Run) -> np.ndarray:
    """Validation logits of a network with batch norm and a moving average, after training on this many ranks."""
    training = Training(run, world, lambda event: None)
    for batch in training.batches():
        training.update(batch)
        if training.step == 6:
            break
    logits = validated(training)
    figures = dict.fromkeys(("train_loss", "valid_loss", "accuracy_multi", "weighted_log_loss", "auc_any"), 0.5)
    training.history.append({"epoch": 1, "step": 6, "seconds": 1.0} | figures)
    training.save()
    training.checkpoints.wait()
    return logits


def test_what_two_ranks_score_is_what_the_checkpoint_scores(folder):
    """Batch statistics are each rank's own; the ones that are saved must be the ones that are scored."""
    run = run_of(folder, model=ModelConfig(name="resnet18", image_size=32, ema_decay=0.9), name="bn")
    logits = run_ranks(trained_and_reloaded, 2, run)[0]
    training = Training(run, World.alone(), lambda event: None)
    assert training.step == 6
    assert np.allclose(validated(training), logits, atol=1e-4)


def refused(world: World, run: Run) -> str:
    """What a rank says of a run that it cannot start."""
    try:
        Training(run, world, lambda event: None)
    except ConfigError as error:
        return str(error)
    return ""


def test_synchronised_batch_norm_on_cpus_is_refused_by_every_rank(folder):
    run = run_of(folder, model=ModelConfig(name="resnet18", image_size=32, sync_batch_norm=True))
    assert all("GPUs only" in said for said in run_ranks(refused, 2, run))
