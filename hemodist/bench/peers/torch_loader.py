"""What the ways share that decode in processes of PyTorch's DataLoader."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hemodist.bench.peers.serve import Epoch, Spec, normalise


class Decode:
    """From an encoded image to uint8 [h, w, 3], augmented, or to float32 where the workers normalise."""

    def __init__(self, spec: Spec) -> None:
        self._in_worker = spec.normalise == "worker"
        self._pil = spec.decoder == "pil"
        self._augment: Callable[[Any], Any] = _same  # no lambda: litdata pickles its data set
        if spec.augment is not None:
            from hemodist.bench.peers.torchvision_augment import transforms

            self._augment = transforms(spec.augment)

    def __call__(self, encoded: bytes) -> torch.Tensor:
        """Decode one image."""
        if self._pil:
            image = torch.from_numpy(np.array(self._augment(Image.open(io.BytesIO(encoded)).convert("RGB"))))
        else:
            from torchvision.io import ImageReadMode, decode_jpeg

            data = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
            image = self._augment(decode_jpeg(data, mode=ImageReadMode.RGB)).permute(1, 2, 0).contiguous()
        return normalise(image) if self._in_worker else image


def _same(image: Any) -> Any:
    return image


def finish(loader: Iterable[torch.Tensor], spec: Spec) -> Epoch:
    """A pass over a DataLoader whose batches are stacked [b, h, w, 3]: normalise, if that is left, and move."""

    def epoch() -> Iterator[torch.Tensor]:
        for stacked in loader:
            images = stacked if spec.normalise == "worker" else normalise(stacked)
            yield images.permute(0, 3, 1, 2).to(spec.device, non_blocking=True)

    return epoch


def limit_threads(spec: Spec) -> None:
    """Let PyTorch's own operations in the main process use the CPUs that there are."""
    torch.set_num_threads(len(spec.cores))


def images_of(dataset: str) -> Iterator[tuple[str, bytes]]:
    """Key and encoded image of each sample, in the data set's order."""
    import tarfile

    for shard in sorted((Path(dataset) / "shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, extension = member.name.rpartition(".")
                content = tar.extractfile(member)
                if extension == "jpg" and content is not None:
                    yield key, content.read()


def once(folder: Path, write: Callable[[Path], None]) -> Path:
    """Fill a folder by `write`, unless an earlier process has."""
    done = folder / "done"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)
        done.touch()
    return folder
