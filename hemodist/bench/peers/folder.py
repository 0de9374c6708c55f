"""A folder of JPEGs in PyTorch's DataLoader, decoded in its worker processes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from hemodist.bench.peers.serve import Epoch, Spec, serve
from hemodist.bench.peers.torch_loader import Decode, finish, images_of, limit_threads, once


class Folder(Dataset[torch.Tensor]):
    """Files of a folder, decoded."""

    def __init__(self, folder: Path, spec: Spec) -> None:
        self._files = sorted(folder.glob("*.jpg"))
        self._decode = Decode(spec)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._decode(self._files[index].read_bytes())


def prepare(spec: Spec) -> None:
    """Write the images, numbered in the data set's order."""
    once(Path(spec.work) / "folder", lambda folder: _write(folder, spec))


def open_loader(spec: Spec) -> Epoch:
    """A map-style data set, its workers kept between passes."""
    limit_threads(spec)
    files = Folder(Path(spec.work) / "folder", spec)
    kept = spec.workers > 0
    loader = DataLoader(
        files, spec.batch, shuffle=spec.shuffle, num_workers=spec.workers, drop_last=True, persistent_workers=kept
    )
    return finish(loader, spec)


def _write(folder: Path, spec: Spec) -> None:
    for number, (_, content) in enumerate(images_of(spec.dataset)):
        (folder / f"{number:07d}.jpg").write_bytes(content)


if __name__ == "__main__":
    serve(open_loader, prepare)
