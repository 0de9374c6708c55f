"""What a finished data set consists of: `manifest.json`, `index.parquet`, `rejected.parquet` and `shards/`.

This room is the contract between the sharder, which writes a data set, and the library, which reads it. A data set
without `manifest.json` is unfinished.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Len

from hemodist.dataset.digest import sha256
from hemodist.dataset.typed import typed
from hemodist.errors import UserError
from hemodist.storage.store import Store, StoreError

T = TypeVar("T")

SCHEMA_VERSION = 1
"""Of `manifest.json` and the parquet files. Raised when a reader of the old form would misread the new one."""

MANIFEST = "manifest.json"
INDEX = "index.parquet"
REJECTED = "rejected.parquet"
SHARD_FOLDER = "shards"


class DatasetError(UserError):
    """A data set is missing, unfinished, damaged or of another version; the text says what helps."""


Count = Annotated[int, Ge(0), Le(2**62)]
"""What is read from JSON into a field of this type is a whole number that int64 arithmetic can take."""

Finite = Annotated[float, Ge(-1e6), Le(1e6)]


@dataclass(frozen=True)
class ShardInfo:
    """One tar: its name below the data set, samples, bytes and SHA-256 (hexadecimal)."""

    name: str
    samples: Count
    bytes: Count
    sha256: str


@dataclass(frozen=True)
class WindowConfig:
    """One window of a picture: center and width in HU."""

    name: str
    center: Finite
    width: Annotated[Finite, Gt(0)]


@dataclass(frozen=True)
class PictureConfig:
    """What readers of pictures rely on in the sharder's configuration.

    Attributes:
        size: rows and columns of a picture.
        windows: a channel each, one or three.
        encoding: of the pictures.
        quality: of JPEGs, 1 to 100; None for PNG.
        crop_head: pictures show the head alone.
        synthetic: the slices are phantoms.
    """

    size: Annotated[int, Ge(1), Le(65_535)]
    windows: Annotated[tuple[WindowConfig, ...], Len(1, 3)]
    encoding: Literal["jpeg", "png"]
    quality: Annotated[int, Ge(0), Le(100)] | None = None
    crop_head: bool = False
    synthetic: bool = False


@dataclass(frozen=True)
class Identity:
    """What the sharder counts of groups and identifiers; see `Manifest.identity`."""

    groups: Count
    largest_group: Count
    joins: dict[str, Count]
    respelled: Count
    nameless: Count


@dataclass(frozen=True)
class OddSeries:
    """How many series and slices have an oddity, and the first pseudonyms of such series."""

    series: Count
    slices: Count
    first: tuple[str, ...]


@dataclass(frozen=True)
class SeriesCounts:
    """How many series there are, and the odd ones by oddity."""

    series: Count
    odd: dict[str, OddSeries]


@dataclass(frozen=True)
class SchemaVersion:
    """What every version's `manifest.json` holds."""

    schema_version: int


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        schema_version: `SCHEMA_VERSION` of the code that wrote it.
        config: the sharder's configuration as JSON values (`size`, `windows`, `encoding` among them).
        config_digest: SHA-256 of the canonical JSON of `config`.
        source_files: files found below the source; `samples` + the sum of `rejected` is equal to it.
        samples: rows of the index.
        duplicates: rows of the index that are second copies of a slice.
        label_counts: for each label the numbers of `positive`, `negative` and `unknown` samples.
        rejected: number of rejected files by reason.
        shards: the tars, in order.
        index_sha256: SHA-256 of `index.parquet`.
        rejected_sha256: SHA-256 of `rejected.parquet`.
        series: number of `series`, and for each oddity of `shards.building.series` how many series and slices, and the
            first pseudonyms; None in data sets that were made before it was looked for.
        identity: numbers of `groups`, of samples in the `largest_group`, of `joins` by what is shared (each on top of
            those before it), of `respelled` identifiers, and of `nameless` samples, whose files name no patient, study
            or series; None in data sets that were made before these were counted.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # so that the digest is that of the file

    schema_version: int
    config: dict[str, Any]
    config_digest: str
    source_files: Count
    samples: Count
    duplicates: Count
    label_counts: dict[str, dict[str, Count]]
    rejected: dict[str, Count]
    shards: tuple[ShardInfo, ...]
    index_sha256: str
    rejected_sha256: str
    series: dict[str, Any] | None = None
    identity: dict[str, Any] | None = None

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, two spaces, one newline at the end."""
        fields = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return (json.dumps(fields, sort_keys=True, indent=2) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> Manifest:
        """Read what `to_bytes` wrote.

        Raises:
            DatasetError: it is not a manifest, or of another schema version.
        """
        version = _typed(SchemaVersion, content, where).schema_version  # first: another one has other fields
        if version != SCHEMA_VERSION:
            raise DatasetError(
                f"{where}: schema version {version}, this hemodist reads {SCHEMA_VERSION}; "
                "shard again, or use the version that wrote it"
            )
        manifest: Manifest = _typed(cls, content, where)
        for number, shard in enumerate(manifest.shards):
            if shard.name != shard_name(number):  # a name from elsewhere must not lead out of a folder
                raise DatasetError(f"{where} names shard {number} {shard.name!r}, not {shard_name(number)!r}")
        check_pictures(manifest.config, where)
        _check_counts(manifest, where)
        return manifest

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest's bytes: the name of exactly this data set."""
        return sha256(self.to_bytes())


def check_pictures(config: Mapping[str, Any], where: str) -> None:
    """Check what a data set or a checkpoint records of the sharder's configuration, as far as pictures depend on it.

    Raises:
        DatasetError: a value is missing, of another type or out of range.
    """
    fields = [field.name for field in dataclasses.fields(PictureConfig)]
    _typed(PictureConfig, {name: config[name] for name in fields if name in config}, where)


def _check_counts(manifest: Manifest, where: str) -> None:
    if manifest.identity is not None:
        _typed(Identity, manifest.identity, where)
    if manifest.series is not None:
        odd = {name: found for name, found in manifest.series.items() if name != "series"}
        _typed(SeriesCounts, {"series": manifest.series.get("series"), "odd": odd}, where)


def _typed(kind: type[T], values: bytes | Mapping[str, Any], where: str) -> T:
    try:
        return typed(kind, values)
    except ValueError as error:
        raise DatasetError(
            f"{where} is not what hemodist writes: {error}; take the file as it was, or shard again"
        ) from None


def read_manifest(store: Store) -> Manifest:
    """The manifest of the data set at `store`.

    Raises:
        DatasetError: there is none, or it cannot be read.
    """
    where = f"{store.uri}/{MANIFEST}"
    try:
        if store.size(MANIFEST) is None:
            raise DatasetError(
                f"{where} does not exist: no data set, or an unfinished one; "
                "run `python jobs/shard.py --source DICOM --output DATASET` until it ends with exit code 0"
            )
        return Manifest.from_bytes(store.read(MANIFEST), where)
    except StoreError as error:
        raise DatasetError(str(error)) from error


def shard_name(number: int) -> str:
    """Name of a tar below the data set.

    >>> shard_name(7)
    'shards/000007.tar'
    """
    return f"{SHARD_FOLDER}/{number:06d}.tar"
