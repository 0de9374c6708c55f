"""The few validation slices that W&B shows, as they are stored, beside what readers and network say of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from hemodist.dataset.labels import LABELS


@dataclass(frozen=True)
class Panel:
    """Pictures and labels of the slices that are shown.

    Attributes:
        images: uint8 [h, 3 * w] each: the windows side by side.
        keys: of the samples.
        labels: int8 [n, 6].
    """

    images: list[npt.NDArray[np.uint8]]
    keys: list[str]
    labels: npt.NDArray[np.int8]

    @classmethod
    def of(
        cls, rows: npt.NDArray[np.int64], read: Callable[[int], npt.NDArray[np.uint8]],
        keys: list[str], labels: npt.NDArray[np.int8],
    ) -> Panel:  # fmt: skip
        """Decode the slices of `rows`; `read` gives the encoded image of a row, `keys` and `labels` are of all rows."""
        images = []
        for row in rows.tolist():
            windows = np.asarray(Image.open(io.BytesIO(read(row).tobytes())).convert("RGB"))
            images.append(np.concatenate(np.moveaxis(windows, 2, 0), axis=1))
        return cls(images, [keys[row] for row in rows.tolist()], labels[rows])

    def captions(self, probabilities: npt.NDArray[np.floating]) -> list[str]:
        """A line a slice: its key, what readers found, and what the network says of each label [n, 6]; NaN: nothing."""
        return [
            f"{key} | readers: {_found(labels)} | network: "
            + (", ".join(f"{n} {p:.2f}" for n, p in zip(LABELS, values, strict=True) if not np.isnan(p)) or "nothing")
            for key, labels, values in zip(self.keys, self.labels, probabilities, strict=True)
        ]


def choose(valid: npt.NDArray[np.int64], labels: npt.NDArray[np.int8], count: int) -> npt.NDArray[np.int64]:
    """The rows to show: the first ones of the split, half of them with hemorrhage as far as there are any.

    Args:
        valid: int64 [n], rows of the validation split.
        labels: int8 [samples, 6].
        count: how many at most.
    """
    positive = labels[valid, LABELS.index("any")] == 1
    with_it, without = valid[positive][: (count + 1) // 2], valid[~positive]
    return np.sort(np.concatenate([with_it, without[: count - len(with_it)]]))


def _found(labels: npt.NDArray[np.int8]) -> str:
    named = [name for name, value in zip(LABELS, labels, strict=True) if value == 1]
    unknown = [f"{name} unknown" for name, value in zip(LABELS, labels, strict=True) if value < 0]
    return ", ".join(named + unknown) or "none"
