"""The webdataset library in PyTorch's DataLoader, decoding in its worker processes."""

from __future__ import annotations

from pathlib import Path

import webdataset
from torch.utils.data import DataLoader

from hemodist.bench.peers.serve import Epoch, Spec, serve
from hemodist.bench.peers.torch_loader import Decode, finish, limit_threads


def open_loader(spec: Spec) -> Epoch:
    """Shards dealt to the workers, a buffer of 1,000 samples shuffled, as its documentation has it."""
    limit_threads(spec)
    shards = [str(path) for path in sorted((Path(spec.dataset) / "shards").glob("*.tar"))]
    decode = Decode(spec)
    samples = webdataset.WebDataset(shards, shardshuffle=len(shards) if spec.shuffle else False).repeat()
    if spec.shuffle:
        samples = samples.shuffle(1000)
    samples = samples.map(lambda sample: decode(sample["jpg"]))
    return finish(DataLoader(samples, spec.batch, num_workers=spec.workers, drop_last=True), spec)


if __name__ == "__main__":
    serve(open_loader, endless=True)
