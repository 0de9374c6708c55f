"""A data set for measuring loaders: synthetic slices, each under several names, sharded as any other."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from shards.building import build
from shards.building.options import ShardConfig
from shards.phantom import generate


def make(folder: Path, *, slices: int, copies: int, size: int = 256, per_shard: int = 256) -> Path:
    """Make a data set, unless an earlier call has made it.

    Args:
        folder: of the data set.
        slices: distinct pictures.
        copies: names of each; a loader reads and decodes every one, as if they were different. Copies have no labels
            and, being second copies, take no part in training; with one name the data set is an ordinary one.
        size: of the stored images, in pixels.
        per_shard: samples in a shard.

    Returns:
        The folder of the data set with `slices` x `copies` samples.
    """
    with tempfile.TemporaryDirectory(prefix="hemodist-bench-") as scratch:
        source = Path(scratch)
        if not (folder / "manifest.json").exists():
            made = generate.generate(source / "phantom", slices=slices, size=512)
            images = made.images if copies == 1 else source / "images"
            if copies > 1:
                images.mkdir()
                for path in sorted(made.images.rglob("*.dcm")):
                    for copy in range(copies):
                        os.link(path, images / f"{path.stem}_{copy}.dcm")
            config = ShardConfig(str(images), str(folder), samples_per_shard=per_shard, size=size)
            todo = build.plan(config)
            assert isinstance(todo, build.Plan)
            build.run(todo)
    return folder
