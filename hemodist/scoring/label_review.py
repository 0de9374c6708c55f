"""The labels that are most at odds with their neighbours and a network: a page to look at, and a CSV to fill in."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from hemodist.config.run import Run
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import CORRECTED, LABELS, SLICE_ID, UNKNOWN, as_cell
from hemodist.errors import ConfigError
from hemodist.loading.sample_reader import Reader
from hemodist.loading.shard_cache import ShardCache
from hemodist.metrics.label_review import NOBODY, Suspicion, suspicion
from hemodist.metrics.predictions import Predictions
from hemodist.models.trained import window_names
from hemodist.reports.page import template
from hemodist.scoring import write_results
from hemodist.scoring.worst_slices import data_uri, readers_found, tiled, window_tile
from hemodist.storage import text_file
from hemodist.storage.store import Store

REVIEW, TABLE = "review.html", "review.csv"
PICTURED = 200
"""Rows that the page shows with pictures; a larger page opens slowly."""

F64 = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Doubt:
    """A slice whose labels are to be looked at.

    Attributes:
        key: of the sample.
        why: a sentence.
        labels: int8 [6].
        found: what readers found, in words.
        picture: data URI of its windows and of the slices before and after; empty where the page shows none.
    """

    key: str
    why: str
    labels: npt.NDArray[np.int8]
    found: str
    picture: str


def write_review(
    store: Store,
    dataset: DataSet,
    run: Run,
    predictions: Predictions,
    learned: Rows,
    others: Sequence[str],
    count: int,
    *,
    synthetic: bool,
) -> str:
    """Write `review.html` and `review.csv`; returns a sentence for the report.

    Args:
        store: the folder to write to.
        dataset: whose labels are reviewed.
        run: cache and corrupt-sample policy.
        predictions: of the network, over the slices to review.
        learned: int64 [m], rows that the network was trained on.
        others: paths or URIs of `predictions.parquet` of networks that were not, each over its own slices. They take
            the network's place, and their slices are reviewed too.
        count: rows at most.
        synthetic: the slices are phantoms, or the network was trained on such.

    Raises:
        ConfigError: one of `others` cannot be read, or is of another data set.
    """
    network, rows, learned = judged(dataset, predictions, learned, others)
    found = look(dataset, network)
    rows = np.union1d(rows, np.flatnonzero(found.same_image))
    chosen = found.order(rows)[:count]
    reader = Reader(dataset, ShardCache(dataset, run.data.cache, limit=run.data.cache_bytes), run.data.on_corrupt)
    try:
        doubts = _doubts(dataset, found, chosen, reader)
    finally:
        reader.close()
        reader.cache.close()
    seen = len(np.intersect1d(learned, rows))
    page = template("hemodist.scoring", "label_review.html.j2").render(
        title="Labels to look at again",
        synthetic=synthetic,
        doubts=doubts,
        pictured=sum(bool(one.picture) for one in doubts),
        reviewed=len(rows),
        seen=seen,
        table=TABLE,
        corrected=CORRECTED,
    )
    store.write(REVIEW, page.encode())
    store.write(TABLE, table(doubts))
    warning = f" The network was trained on {seen:,} of them, and may agree with their wrong labels." if seen else ""
    return f"Label review: the {len(doubts):,} most doubtful of {len(rows):,} slices in {store.uri}/{REVIEW}.{warning}"


def judged(dataset: DataSet, predictions: Predictions, learned: Rows, others: Sequence[str]) -> tuple[F64, Rows, Rows]:
    """P(positive) of all samples, float64 [samples, 6] with NaN where there is none; the rows; those learned from."""
    network = np.full((len(dataset.index), len(LABELS)), np.nan)
    network[predictions.rows] = predictions.probability()
    if not others:
        return network, predictions.rows, np.intersect1d(learned, predictions.rows)
    parts = [read_predictions(uri, dataset) for uri in others]
    total, times = np.zeros_like(network), np.zeros((len(network), 1))
    for rows, probability in parts:
        total[rows] += probability
        times[rows] += 1
    foreign = np.flatnonzero(times)
    network[foreign] = total[foreign] / times[foreign]
    rows = np.union1d(predictions.rows, foreign)
    return network, rows, np.setdiff1d(np.intersect1d(learned, rows), foreign)


def read_predictions(uri: str, dataset: DataSet) -> tuple[Rows, F64]:
    """The rows of the data set that a `predictions.parquet` is of, int64 [n], and its probabilities, float64 [n, 6].

    Raises:
        ConfigError: it cannot be read, or names slices that the data set does not hold.
    """
    store, name = text_file.place(uri)
    if store.size(name) is None:
        raise ConfigError(f"the predictions {uri} do not exist; give the predictions.parquet of a run or an evaluation")
    try:
        named, probability = write_results.read_predictions(store.read(name))
    except ValueError as error:
        raise ConfigError(f"{uri} holds no predictions of hemodist: {error}") from error
    rows = pc.index_in(named, value_set=dataset.index.column("key").combine_chunks())
    strange = rows.null_count
    if strange:
        raise ConfigError(
            f"{uri}: {strange:,} of its {len(named):,} slices are not in {dataset.store.uri}; "
            "give predictions of the same data set"
        )
    return rows.to_numpy().astype(np.int64), probability


def look(dataset: DataSet, network: F64) -> Suspicion:
    """How suspicious all labels of a data set are; `network` is as `judged` gives it."""
    index = dataset.index
    series = index.column("series").combine_chunks().dictionary_encode().indices.fill_null(-1)
    image = index.column("pixel_digest").combine_chunks().cast(pa.binary()).dictionary_encode().indices
    position = index.column("position").to_numpy(zero_copy_only=False).astype(np.float64)
    return suspicion(
        network, dataset.labels(), series.to_numpy().astype(np.int64), position, image.to_numpy().astype(np.int64),
        ~dataset.column("duplicate"),
    )  # fmt: skip


def table(doubts: Sequence[Doubt]) -> bytes:
    """The CSV that a reader fills in, and `jobs/shard.py --corrections` takes."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([SLICE_ID, "why", *LABELS, *(f"{CORRECTED}{label}" for label in LABELS), "note"])
    for one in doubts:
        labels = ["" if value == UNKNOWN else str(value) for value in one.labels]
        writer.writerow([as_cell(one.key), one.why, *labels, *[""] * len(LABELS), ""])
    return text.getvalue().encode()


def reason(found: Suspicion, row: int, labels: npt.NDArray[np.int8], twins: Sequence[str]) -> str:
    """Why a slice is to be looked at, in a sentence or two.

    Args:
        found: of the data set.
        row: of the slice.
        labels: int8 [samples, 6].
        twins: keys of the other samples that show the same image, where labels conflict.
    """
    said = [f"The same image has other labels as {', '.join(twins[:3])}."] if twins else []
    if found.contradictory[row]:
        said.append("Any contradicts the subtypes.")
    if np.isfinite(found.wrong[row]).any():
        column = int(np.nanargmax(found.wrong[row]))
        asked = found.network[row, column]
        network = "the network was not asked" if np.isnan(asked) else f"the network gives {asked:.2f}"
        beside = [_beside(labels, int(other), column) for other in found.neighbours[row]]
        said.append(
            f"{LABELS[column].capitalize()} is {labels[row, column]}; {network}; "
            f"before and after it is {beside[0]} and {beside[1]}."
        )
    return " ".join(said)


def _beside(labels: npt.NDArray[np.int8], row: int, column: int) -> str:
    if row == NOBODY:
        return "no slice"
    return "unknown" if labels[row, column] == UNKNOWN else str(labels[row, column])


def _doubts(dataset: DataSet, found: Suspicion, chosen: Rows, reader: Reader) -> list[Doubt]:
    keys, labels = dataset.index.column("key").to_pylist(), dataset.labels()
    digests = dataset.index.column("pixel_digest").to_pylist()
    shown: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(found.same_image).tolist():
        shown.setdefault(digests[row], []).append(row)
    names = window_names(dataset.manifest.config)
    doubts = []
    for number, row in enumerate(chosen.tolist()):
        twins = [keys[other] for other in shown.get(digests[row], []) if other != row]
        picture = data_uri(_picture(reader, row, found.neighbours[row].tolist(), names)) if number < PICTURED else ""
        why = reason(found, row, labels, twins)
        doubts.append(Doubt(keys[row], why, labels[row], readers_found(labels[row]), picture))
    return doubts


def _picture(reader: Reader, row: int, neighbours: Sequence[int], names: Sequence[str]) -> Image.Image:
    """The windows of a slice, then the first window of the slices before and after it."""

    def windows(of: int) -> npt.NDArray[np.uint8]:
        return np.asarray(Image.open(io.BytesIO(reader.read(of).tobytes())).convert("RGB"))

    own = windows(row)
    tiles = [(window_tile(own[..., channel]), name) for channel, name in enumerate(names)]
    for other, name in zip(neighbours, ("slice before", "slice after"), strict=True):
        if other != NOBODY:
            tiles.append((window_tile(windows(other)[..., 0]), f"{name}, {names[0]}"))
    return tiled(tiles)
