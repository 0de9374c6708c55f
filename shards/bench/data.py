"""A data set for measuring loaders: synthetic slices, each under several file names, sharded as any other."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from shards.building import build
from shards.building.options import ShardConfig
from shards.phantom import generate


def make(folder: Path, *, slices: int, names: int, size: int = 256, per_shard: int = 256) -> Path:
    """Make a data set, unless an earlier call has made it.

    Args:
        folder: of the data set.
        slices: distinct pictures.
        names: file names of each picture. A loader reads and decodes the sample of every name. With several
            names the samples have no labels, and all but one of a slice's samples are duplicates, which take no part in
            training. With one name the data set is an ordinary one.
        size: of the stored images, in pixels.
        per_shard: samples in a shard.

    Returns:
        The folder of the data set with `slices` x `names` samples.
    """
    with tempfile.TemporaryDirectory(prefix="hemodist-bench-") as scratch:
        source = Path(scratch)
        if not (folder / "manifest.json").exists():
            made = generate.generate(source / "phantom", slices=slices, size=512)
            images = made.images if names == 1 else source / "images"
            if names > 1:
                images.mkdir()
                for path in sorted(made.images.rglob("*.dcm")):
                    for number in range(names):
                        os.link(path, images / f"{path.stem}_{number}.dcm")
            config = ShardConfig(str(images), str(folder), samples_per_shard=per_shard, size=size)
            todo = build.plan(config)
            assert isinstance(todo, build.BuildPlan)
            build.run(todo)
    return folder
