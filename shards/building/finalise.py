"""From the records of all shards to `index.parquet`, `rejected.parquet` and, last of all, `manifest.json`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hemodist.dataset.digest import config_digest, sha256
from hemodist.dataset.index import REJECTED_SCHEMA, labels_of
from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.dataset.manifest import INDEX, MANIFEST, REJECTED, SCHEMA_VERSION, Manifest, ShardInfo, shard_name
from hemodist.errors import ConfigError
from hemodist.storage.store import Store, StoreError
from shards.building import series
from shards.building.index import SharedImages, make_index
from shards.dicom.reasons import Reason
from shards.packing import record


def finalise(
    output: Store, shards: int, build_digest: str, config: dict[str, Any], not_selected: Iterable[str]
) -> tuple[Manifest, SharedImages]:
    """Write `index.parquet`, `rejected.parquet` and `manifest.json`, in this order.

    Args:
        output: the data set, with the records of all shards.
        shards: number of shards.
        build_digest: the digest of the build that the records must name.
        config: the configuration for the manifest.
        not_selected: paths of the files that the selection left out.

    Returns:
        The manifest, and what different samples share.

    Raises:
        ConfigError: there was a label file, and no sample has a label; or an identifier tells nobody apart.
        StoreError: a record is missing, damaged or of another build, or something cannot be written.
    """
    infos, samples, rejected = [], [], []
    for number in range(shards):
        info, build, table = record.read(output, number)
        if build != build_digest:
            raise StoreError(f"{output.uri}/{record.name(number)} is of another build; delete it and run again")
        infos.append(ShardInfo(shard_name(number), info.samples, info.bytes, info.sha256))
        good = pc.is_null(table.column("reason"))
        samples.append(table.filter(good).drop_columns([*record.SOURCE, "reason", "detail"]))
        rejected.append(table.filter(pc.invert(good)).select(REJECTED_SCHEMA.names))
    table = pa.concat_tables(samples).combine_chunks()
    made = make_index(table, config.get("ignored_ids", ()))
    index = made.index
    if config.get("labels_sha256") and len(index) and (labels_of(index) == UNKNOWN).all():
        raise ConfigError(
            f"none of the {len(index)} samples has a label: the files that the label file labels were rejected or not "
            f"selected; delete {output.uri}, and shard again with --labels of these images or --labels no"
        )
    left_out = pa.Table.from_pylist(
        [{"path": path, "reason": Reason.NOT_SELECTED.value, "detail": ""} for path in not_selected], REJECTED_SCHEMA
    )
    refused = pa.concat_tables([*(part.cast(REJECTED_SCHEMA) for part in rejected), left_out]).sort_by("path")
    index_bytes, rejected_bytes = record.to_parquet(index), record.to_parquet(refused)
    output.write(INDEX, index_bytes)
    output.write(REJECTED, rejected_bytes)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        config=config,
        config_digest=config_digest(config),
        source_files=len(index) + len(refused),
        samples=len(index),
        duplicates=int(pc.sum(index.column("duplicate")).as_py() or 0),
        label_counts=label_counts(index),
        rejected=reason_counts(refused),
        shards=tuple(infos),
        index_sha256=sha256(index_bytes),
        rejected_sha256=sha256(rejected_bytes),
        series=series.counts(series.all_series(index, whole=config["selection"] == "all")),
        identity=made.identity,
    )
    output.write(MANIFEST, manifest.to_bytes())
    return manifest, made.shared


def label_counts(index: pa.Table) -> dict[str, dict[str, int]]:
    """For each label the numbers of positive, negative and unknown samples."""
    labels = labels_of(index)
    names = {"positive": 1, "negative": 0, "unknown": -1}
    return {
        label: {name: int(np.count_nonzero(labels[:, column] == value)) for name, value in names.items()}
        for column, label in enumerate(LABELS)
    }


def reason_counts(rejected: pa.Table) -> dict[str, int]:
    """Number of rejected files by reason, the reasons sorted."""
    counted = pc.value_counts(rejected.column("reason")).to_pylist()
    return {entry["values"]: entry["counts"] for entry in sorted(counted, key=lambda entry: entry["values"])}
