"""What is odd about a series as a whole: no brain anywhere, inverted in part, gaps, doubled positions, several sizes.

None of it makes a file unusable, so nothing is rejected. Summary, manifest, `verify` and contact sheet say it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

MIN_BRAIN = 0.02
"""Share of pixels in 0 to 80 HU that a slice with brain has at least (Howard's selection of RSNA's slices)."""

MAX_BRAIN = 0.6
"""Larger shares are air that was made 0 to 80 HU; no brain fills so much of a square picture."""

SAME_PLACE = 0.05
"""mm; two slices that are nearer to each other show the same place."""

GAP = 1.5
"""A step between two slices is a gap where it is longer than so many times the shorter one of its neighbours."""

REGULAR = 3
"""So many equal steps in a row are no gaps: many heads are scanned in thin slices below and thick ones above."""

FAULTS = {
    "no_brain": "without brain", "mixed_inversion": "inverted in part", "gaps": "with gaps",
    "doubled_positions": "with doubled positions", "mixed_sizes": "with mixed sizes",
}  # fmt: skip
"""What can be odd, as the manifest calls it, and in words; the worst comes first."""

_NAMED = 3
"""Series of each fault that the manifest names."""


@dataclass(frozen=True)
class Series:
    """A series of a data set.

    Attributes:
        name: its pseudonym; that of study or patient where files name no series, empty where they name nobody.
        rows: of the index, without second copies, by position; int64.
        faults: by the names of `FAULTS`, what was found, in words.
    """

    name: str
    rows: npt.NDArray[np.int64]
    faults: dict[str, str] = field(default_factory=dict)


def all_series(index: pa.Table, *, whole: bool = True) -> list[Series]:
    """Every series of an index, in the order in which they first appear.

    Args:
        index: of `hemodist.dataset.index.INDEX_SCHEMA`.
        whole: whether all slices of the source were taken; a selection leaves gaps that mean nothing.
    """
    owner = pc.fill_null(pc.coalesce(*(index.column(name) for name in ("series", "study", "patient"))), "")
    encoded = owner.combine_chunks().dictionary_encode()
    code, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    place, brain, real = (index.column(name).to_numpy() for name in ("position", "brain_fraction", "spacing"))
    height, width = (index.column(name).fill_null(0).to_numpy().astype(np.int64) for name in ("rows", "columns"))
    size = height << 32 | width
    turned = index.column("inverted").cast(pa.int8()).fill_null(-1).to_numpy()
    given = index.column("series").is_valid().to_numpy()
    used = np.flatnonzero(~index.column("duplicate").to_numpy())
    used = used[np.lexsort((place[used], code[used]))]  # NaN, an unknown position, comes last
    parts = np.split(used, np.flatnonzero(np.diff(code[used])) + 1) if len(used) else []
    return [
        Series(
            names[code[rows[0]]],
            rows,
            _faults(place[rows], brain[rows], turned[rows], size[rows], real[rows], given[rows], whole),
        )
        for rows in parts
    ]


def _faults(place: Any, brain: Any, turned: Any, size: Any, spacing: Any, given: Any, whole: bool) -> dict[str, str]:
    """What is odd about the slices of one series, all arrays by position."""
    found = {}
    if brain.max() < MIN_BRAIN:
        found["no_brain"] = f"no brain in any of {len(brain)} slices"
    elif brain.max() > MAX_BRAIN:
        found["no_brain"] = f"no brain in {len(brain)} slices, but air of 0 to 80 HU"
    if given.all() and 0 < (inverted := np.count_nonzero(turned == 1)) < (asked := np.count_nonzero(turned >= 0)):
        found["mixed_inversion"] = f"{inverted} of {asked} MONOCHROME1 slices had inverted values, the others not"
    steps = np.diff(place[np.isfinite(place)]) if given.all() else np.empty(0)
    if whole and (gaps := _gaps(steps[steps > SAME_PLACE])):
        found["gaps"] = f"{gaps} {'gap' if gaps == 1 else 'gaps'} between {len(brain)} slices"
    if doubled := int(np.count_nonzero(steps <= SAME_PLACE)):
        found["doubled_positions"] = f"{doubled} of {len(brain)} slices where another one is"
    if size.min() != size.max():
        sizes = len(np.unique(size))
        found["mixed_sizes"] = f"{sizes} sizes of {len(brain)} images"
    elif np.fmax.reduce(spacing) > 1.01 * np.fmin.reduce(spacing):  # false for NaN, where none is known
        found["mixed_sizes"] = f"pixels of {np.fmin.reduce(spacing):.3g} to {np.fmax.reduce(spacing):.3g} mm"
    return found


def _gaps(steps: npt.NDArray[np.floating]) -> int:
    """Number of steps, in mm, that are longer than the ones around them."""
    if len(steps) < 2:
        return 0
    longer = steps > GAP * np.minimum(np.r_[steps[1], steps[:-1]], np.r_[steps[1:], steps[-2]])
    if not longer.any():
        return 0
    run = np.cumsum(np.r_[False, np.abs(np.diff(steps)) > 0.1 * steps[1:]])
    return int(np.count_nonzero(longer & (np.bincount(run)[run] < REGULAR)))


def counts(found: Sequence[Series]) -> dict[str, Any]:
    """What the manifest says of the series: how many there are, and for each fault how many series and slices."""
    result: dict[str, Any] = {"series": len(found)}
    for fault in FAULTS:
        those = [one for one in found if fault in one.faults]
        if those:
            slices = sum(len(one.rows) for one in those)
            result[fault] = {"series": len(those), "slices": slices, "first": [one.name for one in those[:_NAMED]]}
    return result


def in_words(counted: dict[str, Any]) -> dict[str, str]:
    """What `counts` found, for people."""
    total, words = counted["series"], {"series": f"{counted['series']:,}"}
    for fault, text in FAULTS.items():
        if fault in counted:
            those = counted[fault]
            named = ", ".join(name[:12] or "unnamed" for name in those["first"])
            more = ", ..." if those["series"] > len(those["first"]) else ""
            words[f"series {text}"] = f"{those['series']:,} of {total:,} ({those['slices']:,} slices): {named}{more}"
    return words
