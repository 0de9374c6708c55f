"""DALI without hemodist: its own WebDataset reader, or encoded images that lie in memory (the limit).

Both decode and normalise by the operators that hemodist's pipeline uses, with the same executor, and hand their tensors
to PyTorch without a copy, as hemodist does. Each has the number of threads that suits it best: what is handed over by
Python wants one more than there are CPUs, as in hemodist, the reader as many.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types

from hemodist.bench.peers.serve import MEAN, STD, Epoch, Spec, serve
from hemodist.bench.peers.torch_loader import images_of


def open_reader(spec: Spec) -> Epoch:
    """`fn.readers.webdataset` with the index files, shuffled through a buffer of 1,024 samples."""
    shards = sorted((Path(spec.dataset) / "shards").glob("*.tar"))

    def source() -> Any:
        return fn.readers.webdataset(
            paths=[str(path) for path in shards],
            index_paths=[str(path.with_suffix(".idx")) for path in shards],
            ext=["jpg"],
            random_shuffle=spec.shuffle,
            initial_fill=1024,
            missing_component_behavior="error",
            name="reader",
        )

    return _epoch(spec, source, len(spec.cores))


def open_resident(spec: Spec) -> Epoch:
    """Encoded images in memory, handed over in turn: nothing is read, chosen or checked."""
    encoded = [np.frombuffer(content, np.uint8) for _, content in images_of(spec.dataset)]
    batches = [encoded[start : start + spec.batch] for start in range(0, len(encoded) - spec.batch + 1, spec.batch)]

    def source() -> Any:
        return fn.external_source(source=lambda number: batches[number % len(batches)], batch=True)

    return _epoch(spec, source, len(spec.cores) + 1)


def _epoch(spec: Spec, source: Any, threads: int) -> Epoch:
    @pipeline_def  # type: ignore[untyped-decorator]
    def define() -> Any:
        images = fn.decoders.image(source(), device="mixed" if spec.device == "cuda" else "cpu", output_type=types.RGB)
        return fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT,
            output_layout="HWC",
            mean=[255 * value for value in MEAN],
            std=[255 * value for value in STD],
        )

    pipeline = define(
        batch_size=spec.batch,
        num_threads=threads,
        device_id=0 if spec.device == "cuda" else None,
        prefetch_queue_depth=2,
        exec_dynamic=True,
    )
    pipeline.build()

    def epoch() -> Iterator[torch.Tensor]:
        while True:
            (images,) = pipeline.run()
            yield torch.utils.dlpack.from_dlpack(images.as_tensor()).permute(0, 3, 1, 2)

    return epoch


if __name__ == "__main__":
    serve(open_resident if "resident" in sys.argv[2:] else open_reader, endless=True)
