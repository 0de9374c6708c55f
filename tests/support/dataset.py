"""A small finished data set of drawn pictures, made without DICOM files, for tests of the library."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hemodist.dataset.digest import config_digest, sha256
from hemodist.dataset.index import INDEX_SCHEMA, REJECTED_SCHEMA
from hemodist.dataset.labels import LABELS
from hemodist.dataset.manifest import INDEX, MANIFEST, REJECTED, SCHEMA_VERSION, Manifest, ShardInfo, shard_name
from hemodist.storage.store import Store


def picture(rng: np.random.Generator, positive: bool, size: int) -> np.ndarray:
    """Noise, uint8 [size, size, 3], with a bright square in every window where `positive`."""
    image = rng.integers(0, 80, (size, size, 3))
    if positive:
        x, y = rng.integers(0, size - size // 3, 2)
        image[y : y + size // 3, x : x + size // 3] += 150
    return image.astype(np.uint8)


def make_dataset(
    folder: Path,
    *,
    samples: int = 120,
    patients: int = 24,
    per_shard: int = 25,
    size: int = 32,
    seed: int = 0,
    positive: float = 0.4,
    encoding: str = "PNG",
    windows: int = 3,
    json: bool = False,
    unknown: Sequence[str] = (),
    nameless: int = 0,
) -> Path:
    """Write a data set whose `any` is visible, in a share `positive` of the slices; a patient has both kinds.

    One window makes grey images; `json` gives each sample the second member that the sharder writes. Nobody knows the
    labels `unknown`. The first `nameless` samples are of nobody knows whom, each a group of its own.
    """
    rng = np.random.default_rng(seed)
    store = Store.open(folder)
    rows: dict[str, list] = {name: [] for name in INDEX_SCHEMA.names}
    shards = []
    for number in range(-(-samples // per_shard)):
        buffer = io.BytesIO()
        count = min(per_shard, samples - number * per_shard)
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for i in range(count):
                key = f"s{number * per_shard + i:05d}"
                bleeds = bool(rng.random() < positive)
                encoded = io.BytesIO()
                options = {"quality": 95, "subsampling": 0} if encoding == "JPEG" else {}
                drawn = picture(rng, bleeds, size)
                Image.fromarray(drawn if windows == 3 else drawn[..., 0]).save(encoded, encoding, **options)
                content = encoded.getvalue()
                info = tarfile.TarInfo(f"{key}.{'jpg' if encoding == 'JPEG' else 'png'}")
                info.size = len(content)
                rows["offset"].append(buffer.tell() + 512)
                tar.addfile(info, io.BytesIO(content))
                if json:
                    described = tarfile.TarInfo(f"{key}.json")
                    described.size = 400
                    tar.addfile(described, io.BytesIO(b'{"key": "' + key.encode().ljust(389) + b'"}'))
                patient = int(rng.integers(patients))
                labels = [int(bleeds), *(int(bleeds and rng.random() < 0.4) for _ in LABELS[1:])]
                for label, value in zip(LABELS, labels, strict=True):
                    rows[label].append(None if label in unknown else value)
                values = {
                    "key": key,
                    "shard": number,
                    "size": len(content),
                    "crc32": zlib.crc32(content),
                    "patient": f"p{patient}",
                    "study": f"p{patient}",
                    "series": f"p{patient}",
                    "position": float(i),
                    "group": patient,
                    "brain_fraction": 0.5,
                    "pixel_digest": rng.bytes(16),
                    "duplicate": False,
                    "rows": size,
                    "columns": size,
                    "spacing": 0.5,
                    "inverted": None,
                }
                if len(rows["key"]) < nameless:
                    values |= dict.fromkeys(("patient", "study", "series")) | {"group": patients + len(rows["key"])}
                for name, value in values.items():
                    rows[name].append(value)
        content = buffer.getvalue()
        store.write(shard_name(number), content)
        shards.append(ShardInfo(shard_name(number), count, len(content), sha256(content)))
    index, rejected = _parquet(pa.table(rows, schema=INDEX_SCHEMA)), _parquet(REJECTED_SCHEMA.empty_table())
    store.write(INDEX, index)
    store.write(REJECTED, rejected)
    config = {
        "size": size,
        "windows": [{"name": "brain", "center": 40.0, "width": 80.0}] * windows,
        "encoding": encoding.lower(),
    }
    counts = {label: [rows[label].count(value) for value in (1, 0, None)] for label in LABELS}
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        config=config,
        config_digest=config_digest(config),
        source_files=samples,
        samples=samples,
        duplicates=0,
        label_counts={
            label: dict(zip(("positive", "negative", "unknown"), counted, strict=True))
            for label, counted in counts.items()
        },
        rejected={},
        shards=tuple(shards),
        index_sha256=sha256(index),
        rejected_sha256=sha256(rejected),
    )
    store.write(MANIFEST, manifest.to_bytes())
    return folder


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
