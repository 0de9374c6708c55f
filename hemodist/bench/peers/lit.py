"""litdata's optimized chunks and its own DataLoader, decoding in its worker processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import litdata  # type: ignore[import-untyped, import-not-found, unused-ignore]
import torch

from hemodist.bench.peers.serve import Epoch, Spec, serve
from hemodist.bench.peers.torch_loader import Decode, finish, images_of, limit_threads, once


class Chunks(litdata.StreamingDataset):  # type: ignore[misc]
    """Encoded images of the chunks, decoded."""

    def __init__(self, folder: Path, spec: Spec) -> None:
        super().__init__(str(folder), shuffle=spec.shuffle, drop_last=True)
        self._decode = Decode(spec)

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._decode(super().__getitem__(index))


def prepare(spec: Spec) -> None:
    """Write chunks of 64 MB, in the data set's order."""
    once(Path(spec.work) / "litdata", lambda folder: _write(folder, spec))


def open_loader(spec: Spec) -> Epoch:
    """Its data set in its loader, the workers kept between passes."""
    limit_threads(spec)
    chunks = Chunks(Path(spec.work) / "litdata" / "chunks", spec)
    kept = spec.workers > 0
    loader = litdata.StreamingDataLoader(
        chunks, batch_size=spec.batch, num_workers=spec.workers, drop_last=True, persistent_workers=kept
    )
    return finish(loader, spec)


def _write(folder: Path, spec: Spec) -> None:
    contents = [content for _, content in images_of(spec.dataset)]
    litdata.optimize(_same, contents, output_dir=str(folder / "chunks"), chunk_bytes="64MB", num_workers=1)


def _same(content: bytes) -> bytes:
    return content


if __name__ == "__main__":
    serve(open_loader, prepare)
