"""The columns of `index.parquet` and `rejected.parquet`, and the labels of an index as an array."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.dataset.manifest import DatasetError

INDEX_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # the sample's name in its tar
        pa.field("shard", pa.int32(), nullable=False),  # number of the tar
        pa.field("offset", pa.int64(), nullable=False),  # of the image's first byte in the tar
        pa.field("size", pa.int32(), nullable=False),  # of the encoded image, in bytes
        pa.field("crc32", pa.uint32(), nullable=False),  # of the encoded image (zlib)
        *[pa.field(label, pa.int8()) for label in LABELS],  # 0, 1 or null
        pa.field("patient", pa.string()),  # keyed pseudonyms; null where the file has none
        pa.field("study", pa.string()),
        pa.field("series", pa.string()),
        pa.field("position", pa.float32()),  # mm along the slice normal; null where unknown
        pa.field("group", pa.int32(), nullable=False),  # what no split divides
        pa.field("brain_fraction", pa.float32(), nullable=False),  # share of pixels in 0 to 80 HU
        pa.field("pixel_digest", pa.binary(16), nullable=False),  # of the HU image before cropping and resampling
        pa.field("duplicate", pa.bool_(), nullable=False),  # a second copy of a slice: stored, never used
        pa.field(
            "rows", pa.int32()
        ),  # of the source image; null in data sets that were made before there was this column
        pa.field("columns", pa.int32()),
        pa.field("spacing", pa.float32()),  # mm between rows of the source image; null where unknown
        pa.field("inverted", pa.bool_()),  # whether a MONOCHROME1 image had inverted values; null for others
    ]
)
"""A row a sample, in shard order."""

ADDED = ("rows", "columns", "spacing", "inverted")
"""Columns that older data sets do not have."""

REJECTED_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # of the source file, relative to the source
        pa.field("reason", pa.string(), nullable=False),  # a code of `shards.dicom.reasons.Reason`
        pa.field("detail", pa.string(), nullable=False),  # the numbers
    ]
)
"""A row a source file that could not be used, sorted by path."""


def as_index(table: pa.Table) -> pa.Table:
    """The table with the columns of `INDEX_SCHEMA`; those that an older data set lacks are null.

    Raises:
        pa.ArrowException: another column is missing, or one has another type.
    """
    for name in ADDED:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), INDEX_SCHEMA.field(name).type))
    return table.cast(INDEX_SCHEMA)


def read_index(content: bytes, samples: int, where: str) -> pa.Table:
    """The index from its file, each column of its type and in its range.

    Args:
        content: of the file.
        samples: rows that the manifest says it has.
        where: what it is called in an error.

    Raises:
        DatasetError: it is no index of so many samples; the text names the column.
    """
    try:
        with pq.ParquetFile(io.BytesIO(content)) as file:
            if file.metadata.num_rows != samples:
                raise DatasetError(f"{where} has {file.metadata.num_rows:,} rows, not the manifest's {samples:,}")
            table = as_index(file.read())
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        raise DatasetError(f"{where} is no index of hemodist: {str(error).splitlines()[0]}; shard again") from error
    fraction = table.column("brain_fraction").to_numpy()
    wrong = [name for name in LABELS if not set(pc.unique(table.column(name)).to_pylist()) <= {0, 1, None}]
    wrong += ["group"] if int(pc.min(table.column("group")).as_py() or 0) < 0 else []
    wrong += ["brain_fraction"] if not ((fraction >= 0) & (fraction <= 1)).all() else []
    wrong += ["position"] if np.isinf(table.column("position").to_numpy()).any() else []
    if wrong:
        raise DatasetError(f"{where} holds values in {', '.join(wrong)} that hemodist does not write; shard again")
    return table


def read_rejected(content: bytes, where: str) -> pa.Table:
    """The table of rejected files from its file, of `REJECTED_SCHEMA`.

    Args:
        content: of the file.
        where: what it is called in an error.

    Raises:
        DatasetError: it is no such table.
    """
    try:
        return pq.read_table(io.BytesIO(content)).cast(REJECTED_SCHEMA)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        text = str(error).splitlines()[0]
        raise DatasetError(f"{where} is no table of rejected files: {text}; shard again") from error


def labels_of(table: pa.Table) -> npt.NDArray[np.int8]:
    """The label columns of a table, int8 [rows, 6]; null becomes `UNKNOWN`."""
    columns = [table.column(label).fill_null(UNKNOWN).to_numpy() for label in LABELS]
    return np.stack(columns, axis=1).astype(np.int8)
