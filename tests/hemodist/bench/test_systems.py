from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hemodist.bench.systems import bench_systems
from hemodist.config.data import MixConfig
from hemodist.config.recipes import resnet18
from hemodist.config.run import Run
from hemodist.config.training import OptimConfig
from tests.support.dataset import make_dataset


def test_recipes_whose_steps_cost_the_same_share_a_line_and_each_is_related_to_its_resident_batch(tmp_path):
    make_dataset(tmp_path / "dataset", samples=80, patients=16, per_shard=20)

    def named(name: str, **changes: Any) -> Callable[[], Run]:
        return lambda: replace(resnet18(), name=name, **changes)

    recipes = (
        resnet18,
        named("found", optim=OptimConfig(lr="found")),
        named("mixed", mix=MixConfig(kind="cutmix")),
        named("averaged", model=replace(resnet18().model, weights="imagenet", ema_decay=0.9)),
    )
    outcome = bench_systems(tmp_path / "dataset", tmp_path, quick=True, recipes=recipes, image_size=32)
    assert [row[0] for row in outcome.rows] == ["resnet18, found", "mixed", "averaged"]
    for found in outcome.figures["recipes"].values():
        assert found["loop"]["median"] > 0
        assert len(found["loop"]["laps"]) == len(found["resident"]["laps"]) == 2
        ratios = [a[0] / b[0] for a, b in zip(found["loop"]["laps"], found["resident"]["laps"], strict=True)]
        assert min(ratios) <= found["loop_over_resident"] <= max(ratios)
    outcome.draw(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
