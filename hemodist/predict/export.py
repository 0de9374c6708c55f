"""A checkpoint's network for use without hemodist, as `torch.export`'s format and ONNX, each checked against it.

The exported network takes float32 [batch, 3, size, size], normalised as `model.json` says, any batch from 1, and gives
logits [batch, 6]; the logistic function of them are the probabilities.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hemodist.dataset.digest import sha256
from hemodist.dataset.labels import LABELS
from hemodist.errors import UserError
from hemodist.loading.pixels import MEAN, STD
from hemodist.models.trained import PICTURE_FIELDS, Trained
from hemodist.storage.store import Store

PROGRAM, ONNX, DESCRIPTION = "model.pt2", "model.onnx", "model.json"

TOLERANCE = 1e-3
"""Largest difference of a logit that counts as equal: 0.00025 of a probability."""

Images = npt.NDArray[np.float32]
Runner = Callable[[Images], Images]

_CHECKED_BATCHES = (1, 3)
_MAX_BATCH = 4096


class ExportError(UserError):
    """The exported network does not give what the original gives."""


def export(trained: Trained, output: str) -> dict[str, Any]:
    """Write `model.pt2`, `model.onnx` where its exporter is installed, and `model.json`, which is returned.

    Args:
        trained: the checkpoint.
        output: folder or URI.

    Raises:
        ExportError: an exported network differs from the original by more than `TOLERANCE`, or cannot be exported.
        StoreError: something cannot be written.
    """
    store = Store.open(output)
    store.check_writable()
    network = trained.network.cpu().eval().to(memory_format=torch.contiguous_format)
    size = trained.run.model.image_size
    inputs = [_example(batch, size) for batch in _CHECKED_BATCHES]
    with torch.no_grad():
        expected = [network(one).numpy() for one in inputs]
    described: dict[str, Any] = {
        "labels": list(LABELS),
        "learned": [name for name, learned in zip(LABELS, trained.learned, strict=True) if learned],
        "input": {"shape": ["batch", 3, size, size], "dtype": "float32", "mean": MEAN, "std": STD, "range": [0, 1]},
        "output": "logits, [batch, 6] in the order of the labels; the logistic function gives probabilities",
        "pictures": {name: trained.sharding.get(name) for name in PICTURE_FIELDS},
        "checkpoint": trained.where,
        "run": trained.run.name,
        "step": trained.step,
        "tolerance": TOLERANCE,
        "files": {},
    }
    contents: dict[str, bytes] = {}  # written only when all formats agree with the checkpoint
    writers: dict[str, Callable[[nn.Module, torch.Tensor, Path], Runner]]
    writers = {PROGRAM: _program}
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        described["onnx"] = f"not written: {' and '.join(missing)} is not installed"
    else:
        writers[ONNX] = _onnx
    for name, writer in writers.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            with _quiet():
                try:
                    again = writer(network, inputs[1], path)
                except Exception as error:  # the exporters raise types of their own, and torch's internal ones
                    raise ExportError(f"{trained.run.model.name} cannot be exported as {name}: {error}") from error
                found = [again(one.numpy()) for one in inputs]
            difference = max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))
            if not difference <= TOLERANCE:
                raise ExportError(
                    f"{name} differs from the checkpoint by {difference:g} in a logit, {TOLERANCE:g} is allowed; "
                    "nothing was written; please report the network and the versions"
                )
            content = contents[name] = path.read_bytes()
        described["files"][name] = {
            "bytes": len(content), "sha256": sha256(content), "largest difference of a logit": difference
        }  # fmt: skip
    contents[DESCRIPTION] = (json.dumps(described, indent=2) + "\n").encode()  # last: it names the others' digests
    for name, content in contents.items():
        store.write(name, content)
    return described


def _program(network: nn.Module, example: torch.Tensor, path: Path) -> Runner:
    program = torch.export.export(network, (example,), dynamic_shapes=_any_batch())
    torch.export.save(program, path)
    loaded = torch.export.load(path).module()

    def run(images: Images) -> Images:
        with torch.no_grad():
            logits: Images = loaded(torch.from_numpy(images)).numpy()
        return logits

    return run


def _onnx(network: nn.Module, example: torch.Tensor, path: Path) -> Runner:
    from onnx import load
    from onnx.reference import ReferenceEvaluator

    torch.onnx.export(
        network, (example,), path, dynamo=True, dynamic_shapes=_any_batch(), external_data=False,
        input_names=["images"], output_names=["logits"], verbose=False,
    )  # fmt: skip
    evaluator: Any = ReferenceEvaluator(load(path))

    def run(images: Images) -> Images:
        logits: Images = evaluator.run(None, {"images": images})[0]
        return logits

    return run


def _any_batch() -> tuple[Any, ...]:
    return ({0: torch.export.Dim("batch", min=1, max=_MAX_BATCH)},)


def _example(batch: int, size: int) -> torch.Tensor:
    """Noise as wide as normalised pictures, float32 [batch, 3, size, size]; the same each time."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters tell their progress and what they think of torch's own code."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
