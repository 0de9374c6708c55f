"""A picture of what a data set holds: a contact sheet of samples with their labels."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS

TILE = 192
"""Pixels of a sample's side on the sheet."""

_CAPTION = 30
_GAP = 4
_BLACK, _WHITE, _RED, _GREY = (16, 16, 16), (240, 240, 240), (255, 110, 90), (150, 150, 150)


def contact_sheet(dataset: DataSet, count: int, columns: int = 6) -> bytes:
    """A PNG of samples spread evenly over the data set, half of them with a hemorrhage where there are enough.

    Args:
        dataset: the data set.
        count: most samples on the sheet.
        columns: samples in a row.
    """
    chosen = choose(dataset, count)
    columns = max(1, min(columns, len(chosen)))
    rows = max(1, -(-len(chosen) // columns))
    width, height = columns * (TILE + _GAP) + _GAP, rows * (TILE + _CAPTION + _GAP) + _GAP
    sheet = Image.new("RGB", (width, height), _BLACK)
    draw = ImageDraw.Draw(sheet)
    for place, row in enumerate(chosen):
        left = _GAP + place % columns * (TILE + _GAP)
        top = _GAP + place // columns * (TILE + _CAPTION + _GAP)
        entry = dataset.index.slice(int(row), 1).to_pylist()[0]
        sheet.paste(_image(dataset, entry).resize((TILE, TILE), Image.Resampling.BILINEAR), (left, top))
        text, colour = caption(entry)
        draw.text((left, top + TILE + 2), entry["key"][-30:], fill=_WHITE)
        draw.text((left, top + TILE + 15), text, fill=colour)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def choose(dataset: DataSet, count: int) -> list[int]:
    """Rows of the index, sorted: positives and others, each spread evenly over the data set."""
    positive = dataset.labels()[:, 0] == 1
    with_blood, without = np.flatnonzero(positive), np.flatnonzero(~positive)
    first = min(len(with_blood), max(count // 2, count - len(without)))
    return sorted([*_spread(with_blood, first), *_spread(without, count - first)])


def caption(entry: dict[str, object]) -> tuple[str, tuple[int, int, int]]:
    """A sample's labels in words, and a colour for them."""
    if all(entry[label] is None for label in LABELS):
        return "labels unknown", _GREY
    names = [label[:16] for label in LABELS[1:] if entry[label] == 1]
    if names or entry["any"] == 1:
        return "+".join(name[:6] if len(names) > 1 else name for name in names) or "any", _RED
    return "no hemorrhage", _WHITE


def _spread(rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]], count: int) -> list[int]:
    count = min(count, len(rows))
    return [int(rows[place * len(rows) // count]) for place in range(count)]


def _image(dataset: DataSet, entry: dict[str, object]) -> Image.Image:
    info = dataset.manifest.shards[int(str(entry["shard"]))]
    path = dataset.store.path(info.name)
    with dataset.store.filesystem.open_input_file(path) as file:
        content = file.read_at(int(str(entry["size"])), int(str(entry["offset"])))
    return Image.open(io.BytesIO(content)).convert("RGB")
