"""mosaicml-streaming's shards and data set in PyTorch's DataLoader, decoding in its worker processes.

It holds NumPy at 2.1, so this module runs in an environment of its own and imports nothing that only hemodist has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from streaming import (  # type: ignore[import-not-found, unused-ignore]
    MDSWriter,
    StreamingDataLoader,
    StreamingDataset,
)

from hemodist.bench.peers.serve import Epoch, Spec, serve
from hemodist.bench.peers.torch_loader import Decode, finish, images_of, limit_threads, once


class Shards(StreamingDataset):  # type: ignore[misc]
    """Encoded images of the shards, decoded."""

    def __init__(self, folder: Path, spec: Spec) -> None:
        super().__init__(local=str(folder), shuffle=spec.shuffle, batch_size=spec.batch)
        self._decode = Decode(spec)

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._decode(super().__getitem__(index)["jpg"])


def prepare(spec: Spec) -> None:
    """Write its shards of 64 MiB, in the data set's order."""
    once(Path(spec.work) / "mosaic", lambda folder: _write(folder, spec))


def open_loader(spec: Spec) -> Epoch:
    """Its data set in its loader, the workers kept between passes."""
    limit_threads(spec)
    shards = Shards(Path(spec.work) / "mosaic" / "shards", spec)
    kept = spec.workers > 0
    loader = StreamingDataLoader(
        shards, batch_size=spec.batch, num_workers=spec.workers, drop_last=True, persistent_workers=kept
    )
    return finish(loader, spec)


def _write(folder: Path, spec: Spec) -> None:
    with MDSWriter(out=str(folder / "shards"), columns={"jpg": "bytes"}, size_limit=2**26) as writer:
        for _, content in images_of(spec.dataset):
            writer.write({"jpg": content})


if __name__ == "__main__":
    serve(open_loader, prepare)
