"""A picture of what a data set holds: a contact sheet of slices with their labels, a block a series."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS
from shards.building import series
from shards.building.series import Series

TILE = 128
"""Pixels of a picture's side on the sheet."""

PER_SERIES, MOST_PER_SERIES = 6, 12
"""Slices of a series where it has as many, and where there are few series."""

_NAMES = 84  # pixels left of the pictures, for the names of the windows
_GAP, _LINE = 4, 14
_BLACK, _WHITE, _RED, _GREY = (16, 16, 16), (240, 240, 240), (255, 110, 90), (150, 150, 150)


def contact_sheet(dataset: DataSet, count: int) -> bytes:
    """A PNG of slices: a block a series, its slices by position, and a row a window, in grey.

    Args:
        dataset: the data set.
        count: most slices on the sheet, each shown in every window.
    """
    chosen = choose(dataset, count)
    windows = [
        f"{entry['name']}\n{entry['center']:g}/{entry['width']:g}" for entry in dataset.manifest.config["windows"]
    ]
    columns = max(len(rows) for _, rows in chosen)
    block = _LINE * 3 + len(windows) * (TILE + _GAP) + 3 * _GAP
    sheet = Image.new("RGB", (_NAMES + columns * (TILE + _GAP), len(chosen) * block), _BLACK)
    draw = ImageDraw.Draw(sheet)
    for place, (one, rows) in enumerate(chosen):
        top = place * block + _GAP
        faults = ", ".join(one.faults.values())
        draw.text((_GAP, top), f"series {one.name or 'unnamed'}, {len(one.rows)} slices", fill=_WHITE)
        draw.text((_GAP + 370, top), faults, fill=_RED)
        rows_top = top + 3 * _LINE + _GAP
        for number, name in enumerate(windows):
            draw.text((_GAP, rows_top + number * (TILE + _GAP) + TILE // 2), name, fill=_GREY)
        for column, entry in enumerate(dataset.index.take(rows).to_pylist()):
            left = _NAMES + column * (TILE + _GAP)
            text, colour = caption(entry)
            draw.text((left, top + _LINE), entry["key"][-20:], fill=_GREY)
            draw.text((left, top + 2 * _LINE), text, fill=colour)
            for number, channel in enumerate(_image(dataset, entry).split()):
                picture = channel.resize((TILE, TILE), Image.Resampling.BILINEAR)
                sheet.paste(picture, (left, rows_top + number * (TILE + _GAP)))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def choose(dataset: DataSet, count: int) -> list[tuple[Series, npt.NDArray[np.int64]]]:
    """Series, and rows of each by position, `count` rows in all at most.

    Up to half of the series are odd ones, the worst first; the others are spread evenly over the data set, half of them
    with a hemorrhage where there are enough.
    """
    every = series.all_series(dataset.index, whole=dataset.manifest.config.get("selection") == "all")
    wanted = max(1, count // PER_SERIES)
    positive = dataset.labels()[:, 0] == 1
    odd = sorted((one for one in every if one.faults), key=_badness)
    rest = [one for one in every if not one.faults]
    odd = odd[: max((wanted + 1) // 2, wanted - len(rest))]
    bleeding = [one for one in rest if positive[one.rows].any()]
    without = [one for one in rest if not positive[one.rows].any()]
    wanted -= len(odd)
    first = min(len(bleeding), max(wanted // 2, wanted - len(without)))
    chosen = [*odd, *_spread(bleeding, first), *_spread(without, wanted - first)]
    slices = min(count, MOST_PER_SERIES, max(PER_SERIES, count // len(chosen)))
    return [(one, np.array(_spread(one.rows, slices), np.int64)) for one in chosen]


def _badness(one: Series) -> int:
    return min(list(series.FAULTS).index(fault) for fault in one.faults)


def caption(entry: dict[str, object]) -> tuple[str, tuple[int, int, int]]:
    """A sample's labels in words, and a colour for them."""
    if all(entry[label] is None for label in LABELS):
        return "labels unknown", _GREY
    names = [label[:16] for label in LABELS[1:] if entry[label] == 1]
    if names or entry["any"] == 1:
        return "+".join(name[:6] if len(names) > 1 else name for name in names) or "any", _RED
    return "no hemorrhage", _WHITE


def _spread(of: Any, count: int) -> list[Any]:
    """Entries spread evenly, the outermost ones left out where there are many more."""
    count = min(count, len(of))
    return [of[(2 * place + 1) * len(of) // (2 * count)] for place in range(count)]


def _image(dataset: DataSet, entry: dict[str, object]) -> Image.Image:
    info = dataset.manifest.shards[int(str(entry["shard"]))]
    path = dataset.store.path(info.name)
    with dataset.store.filesystem.open_input_file(path) as file:
        content = file.read_at(int(str(entry["size"])), int(str(entry["offset"])))
    return Image.open(io.BytesIO(content))
