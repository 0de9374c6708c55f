"""Twenty losses of three recipes, as they were when `golden.json` was written.

Network and optimizer compute in float64: with other threads or another processor the libraries add in another order,
and twenty steps of AdamW amplify what float32 rounds to percents. `TOLERANCE` is relative; one and two threads differ
by 0.0007 at most. A change of what is read, how it is augmented or mixed, or of network, loss, optimizer or schedule
moves losses by percents. Where such a change is meant, write the file anew and read its difference before committing:

    HEMODIST_WRITE_GOLDEN=1 uv run pytest tests/numerics/test_golden.py
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from hemodist.config.data import BatchConfig
from hemodist.config.operation import ScalingConfig, TrackingConfig
from hemodist.config.recipes import alexnet_transpose, densenet121, resnet34_silu
from hemodist.config.run import Run
from hemodist.training.loop import Training
from hemodist.world import World
from tests.support.dataset import make_dataset

GOLDEN = Path(__file__).with_name("golden.json")
TOLERANCE = 5e-3
STEPS = 20
RECIPES = (resnet34_silu, alexnet_transpose, densenet121)


def reduced(run: Run, folder: Path) -> Run:
    """The recipe on small images in this process, with CutMix, which draws too."""
    size = 64 if run.model.name == "alexnet" else 32
    return replace(
        run,
        output=str(folder / "runs"),
        data=replace(run.data, dataset=str(folder / "data"), decode_threads=1),
        batch=BatchConfig(global_batch_size=8, mix_group=4, block_shards=2),
        mix=replace(run.mix, kind="cutmix", probability=0.5),
        model=replace(run.model, image_size=size, weights="none"),
        optim=replace(run.optim, epochs=4),
        scaling=ScalingConfig(workers=0, device="cpu", precision="fp32", deterministic=True),
        tracking=TrackingConfig(mode="disabled"),
    )


def losses_of(run: Run) -> list[float]:
    """Mean loss of each of the first steps."""
    training = Training(run, World.alone(), lambda event: None)
    training.learner.network.double()
    losses = []
    for batch in training.batches():
        wide = {name: getattr(batch, name).double() for name in ("images", "targets", "weights")}
        losses.append(training.update(replace(batch, **wide)).sums[0].item() / len(batch.rows))
        if len(losses) == STEPS:
            break
    return losses


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    make_dataset(folder / "data", samples=64, patients=16)
    return folder


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
def test_twenty_losses_are_those_of_the_committed_file(recipe, folder):
    losses = losses_of(reduced(recipe(), folder))
    assert len(losses) == STEPS
    if os.environ.get("HEMODIST_WRITE_GOLDEN"):
        golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        golden[recipe.__name__] = [round(loss, 7) for loss in losses]
        GOLDEN.write_text(json.dumps(golden, indent=2, sort_keys=True) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert golden.keys() == {other.__name__ for other in RECIPES} or os.environ.get("HEMODIST_WRITE_GOLDEN")
    assert losses == pytest.approx(golden[recipe.__name__], rel=TOLERANCE)
