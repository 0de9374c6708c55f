"""The loader as a library: from a data set to batches in a few lines."""

from __future__ import annotations

import doctest
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hemodist.config.data import AugmentConfig, BatchConfig, DataConfig, MixConfig
from hemodist.dataset.dataset import DataSet
from hemodist.errors import ConfigError
from hemodist.loading import training_loader as module
from hemodist.loading.training_loader import TrainingLoader
from tests.support.dataset import make_dataset

STRONG = AugmentConfig(0.5, 0.5, 0.5, 0.5, 20.0, 0.1, 0.2)
MIXED = {
    "augment": STRONG,
    "mix": MixConfig("cutmix", probability=0.6),
    "batch": BatchConfig(mix_group=4, block_shards=2),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), samples=100, encoding="JPEG")


def test_the_documented_example_runs(folder):
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 6))
    example = "\n".join(
        line.source
        for line in doctest.DocTestParser().get_examples(TrainingLoader.__doc__ or "")
        if "import" not in line.source
    )
    example = example.replace("batch.targets[0])", "batch.targets[0]))")
    code = example.replace('"dataset"', "str(folder)").replace("batch_size=64", "batch_size=16").replace("...}", "}")
    kept: dict = {"folder": folder, "network": network, "TrainingLoader": TrainingLoader}
    saving = 'torch.save({"data": loader.state(batch.number + 1), }, "state.pt")'
    assert saving in code
    exec(code.replace(saving, "saved = {'data': loader.state(3)}").replace("print(", "repr(("), kept)
    assert kept["loader"].steps - 3 == sum(1 for _ in kept["loader"])


def test_a_batch_says_what_it_is_and_where_it_stands(folder):
    loader = TrainingLoader.open(str(folder), batch_size=24, epochs=2)
    dataset = DataSet.open(str(folder))
    keys, train = dataset.index.column("key").to_pylist(), len(loader.stream.plan.rows)
    seen = []
    for number, batch in enumerate(loader):
        assert (batch.number, batch.epoch, batch.position) == (number, *divmod(number * 24, train))
        assert batch.keys == tuple(keys[row] for row in batch.rows)
        assert batch.images.shape == (24, 3, 32, 32)
        assert np.array_equal(batch.targets.numpy(), dataset.labels()[batch.rows])
        assert batch.weights.tolist() == [1.0] * 24
        seen += batch.keys
    for epoch in range(2):
        assert len(set(seen[epoch * train : (epoch + 1) * train])) == train


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_a_chain_of_ranks_and_restarts_gives_the_undisturbed_pixels(folder, sampling):
    options = MIXED | {"batch": replace(MIXED["batch"], sampling=sampling), "batch_size": 12, "seed": 3, "epochs": 2}
    undisturbed = list(TrainingLoader.open(str(folder), **options))
    state, step = None, 0
    for world, steps in ((2, 3), (3, 4), (1, 2)):
        loaders = [
            TrainingLoader.open(str(folder), **options, state=state, rank=rank, world=world) for rank in range(world)
        ]
        for _, *shares in zip(range(steps), *loaders, strict=False):
            whole = undisturbed[step]
            for field in ("images", "targets", "weights"):
                joined = torch.cat([getattr(share, field) for share in shares])
                assert torch.equal(joined, getattr(whole, field))
            assert sum((share.keys for share in shares), ()) == whole.keys
            step += 1
        step -= 1  # the last step was not saved
        state = loaders[0].state(step)
    assert step == 6


def test_a_state_of_another_stream_is_refused_with_the_difference(folder):
    state = TrainingLoader.open(str(folder), batch_size=16).state(5)
    assert TrainingLoader.open(str(folder), batch_size=16, state=state)
    with pytest.raises(ConfigError, match=r"batch.global_batch_size was 16, is 20; use what it had"):
        TrainingLoader.open(str(folder), batch_size=20, state=state)
    with pytest.raises(ConfigError, match=r"split was \w+, is \w+"):
        TrainingLoader.open(str(folder), batch_size=16, data=DataConfig(valid_fold=1), state=state)
    with pytest.raises(ConfigError, match="seed was 0, is 1"):
        TrainingLoader.open(str(folder), batch_size=16, seed=1, state=state)
    with pytest.raises(ConfigError, match=r"model.image_size was 32, is 64"):
        TrainingLoader.open(str(folder), batch_size=16, image_size=64, state=state)
    with pytest.raises(ConfigError, match="dataset was None, is"):
        TrainingLoader.open(str(folder), batch_size=16, state={"step": 5})


@pytest.mark.parametrize("step", [-1, 7, 2**63, None, "3", 1.5])
def test_a_step_that_the_run_does_not_have_is_refused(folder, step):
    loader = TrainingLoader.open(str(folder), batch_size=16)
    assert loader.steps == 6
    with pytest.raises(ConfigError, match="this run has the steps 0 to 6"):
        TrainingLoader.open(str(folder), batch_size=16, state=loader.state(6) | {"step": step})
    assert list(TrainingLoader.open(str(folder), batch_size=16, state=loader.state(6))) == []


def test_a_state_of_version_0_1_0_goes_on(folder):
    state = TrainingLoader.open(str(folder), batch_size=16).state(3)
    del state["model.image_size"]
    assert next(iter(TrainingLoader.open(str(folder), batch_size=16, state=state))).number == 3


def test_a_state_goes_through_json_and_ignores_what_changes_no_batch(folder):
    loader = TrainingLoader.open(str(folder), batch_size=16)
    state = json.loads(json.dumps(loader.state(3)))
    assert state == loader.state(3)
    other = BatchConfig(mix_group=1, accumulate=2, eval_batch_size=7)
    again = TrainingLoader.open(str(folder), batch_size=16, batch=other, state=state)
    assert next(iter(again)).number == 3


@pytest.mark.parametrize(("rank", "world"), [(4, 4), (-1, 2)])
def test_a_rank_that_there_is_not_is_refused(folder, rank, world):
    with pytest.raises(ConfigError, match=f"rank {rank} is none of {world} ranks"):
        TrainingLoader.open(str(folder), batch_size=16, rank=rank, world=world)


def test_the_first_batch_comes_soon(folder):
    seconds = []
    for seed in range(4):
        start = time.process_time()
        next(iter(TrainingLoader.open(str(folder), batch_size=64, seed=seed, **MIXED)))
        seconds.append(time.process_time() - start)
    assert min(seconds) < 3  # CPU seconds, imports not counted; 0.2 s on an idle core


def test_every_documented_argument_exists():
    for function in (TrainingLoader.__init__, TrainingLoader.open):
        documented = (function.__doc__ or "").split("Args:")[1]
        for name in function.__annotations__:
            assert name == "return" or f"            {name}:" in documented
    assert module.__doc__
