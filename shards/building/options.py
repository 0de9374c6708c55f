"""The sharder's flags, their checks, and the configuration that the manifest records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hemodist.errors import ConfigError

if TYPE_CHECKING:
    from shards.packing.source_files import File
    from shards.picture.windows import Window


@dataclass(frozen=True)
class ShardConfig:
    """How a data set is made.

    Attributes:
        source: folder of DICOM files (path, s3://, gs://), looked through at every depth.
        output: folder of the data set, outside the source.
        labels: RSNA's label file, as it is or as .zip or .gz; `no` for none. By default stage_2_train.csv or
            stage_1_train.csv in the source or beside it.
        corrections: CSV of corrected labels, which `jobs/evaluate.py --review` writes for readers to fill in.
        workers: CPUs to use; 0 runs in this process, without Ray. By default all of the machine or cluster.
        samples_per_shard: files that are cut into one shard.
        size: rows and columns of the stored images.
        windows: one or three, each brain, subdural, soft_tissue, bone, stroke, stroke_narrow or center/width in HU.
        encoding: jpeg (4:4:4), or png where losslessness matters more than decoding on a GPU.
        quality: quality of the JPEGs, 1 to 100.
        crop_head: store the square around the head rather than the whole image; the box is in each sample's JSON.
        min_brain_fraction: reject slices with a smaller share of pixels in 0 to 80 HU (0.02 leaves out slices that
            show no brain).
        selection: all; balanced, every positive and as many negatives; list, the ids named in `ids`.
        ids: text file with one slice id a line, for `--selection list`.
        key_file: file with the secret key of the pseudonyms, 32 to 128 hexadecimal digits; by default the variable
            HEMODIST_PSEUDONYM_KEY, else a fresh key that is not kept.
        ignore_ids: identifiers that say nothing, such as one PatientID on every file: they join no slices.
        max_rejected_fraction: share of faulty files above which the exit code is 3; localizers, reports, other
            modalities and the like are no faults.
        order_key: key of the order in which files are dealt to shards; not secret.
        synthetic: the source is `python -m shards phantom`'s; reports then say so.
        track: log the summary as a W&B run, online with WANDB_API_KEY and otherwise in the folder `wandb`.
        dry_run: look at some files and say what would come out, how large and when; write nothing.
    """

    source: str
    output: str
    labels: str | None = None
    corrections: str | None = None
    workers: int | None = None
    samples_per_shard: int = 1024
    size: int = 256
    windows: tuple[str, ...] = ("brain", "subdural", "soft_tissue")
    encoding: Literal["jpeg", "png"] = "jpeg"
    quality: int = 95
    crop_head: bool = False
    min_brain_fraction: float = 0.0
    selection: Literal["all", "balanced", "list"] = "all"
    ids: str | None = None
    key_file: str | None = None
    ignore_ids: tuple[Literal["patient", "study", "series"], ...] = ()
    max_rejected_fraction: float = 0.01
    order_key: str = "hemodist"
    synthetic: bool = False
    track: bool = False
    dry_run: bool = False


def check(config: ShardConfig) -> tuple[Window, ...]:
    """Check the flags by themselves, and return the windows.

    Raises:
        ConfigError: one is out of range, or two contradict each other.
    """
    bounds = {
        "workers": (0, 65_536), "samples_per_shard": (1, 2**20), "size": (16, 4096), "quality": (1, 100),
        "min_brain_fraction": (0, 1), "max_rejected_fraction": (0, 1),
    }  # fmt: skip
    for name, (low, high) in bounds.items():
        if (value := getattr(config, name)) is not None and not low <= value <= high:
            raise ConfigError(f"{name} {value} is out of range; use {low} to {high}")
    if (config.selection == "list") != (config.ids is not None):
        raise ConfigError("--selection list and --ids FILE belong together; give both or neither")

    from shards.picture.windows import parse_channels

    return parse_channels(config.windows)


def task_memory(config: ShardConfig) -> int:
    """Bytes of memory that a task reserves: for the code, for one slice, and for its whole tar.

    >>> task_memory(ShardConfig("", "")) == 600 * 2**20
    True
    """
    values = config.size**2 * len(config.windows)
    # RSNA's slices take 0.17 bytes a value as JPEG of quality 95. A buffer that grows by doubling holds twice the tar.
    sample = values * (0.25 if config.encoding == "jpeg" and config.quality <= 95 else 1.0)
    return max(600 * 2**20, 450 * 2**20 + 20 * values + int(2 * config.samples_per_shard * sample))


def check_memory(config: ShardConfig, largest_node: int | None) -> None:
    """Check that a node has memory enough for a task; otherwise the task would wait for ever.

    Args:
        config: the flags.
        largest_node: most bytes of memory that a node with CPUs gives to tasks; None where none is there yet.

    Raises:
        ConfigError: no node has enough.
    """
    needed = task_memory(config)
    if largest_node is not None and needed > largest_node:
        raise ConfigError(
            f"a shard of {config.samples_per_shard} slices of {config.size} x {config.size} reserves "
            f"{needed / 2**30:.1f} GiB of memory, and no node gives more than {largest_node / 2**30:.1f} GiB; "
            "use a smaller --samples-per-shard or --size, or larger nodes"
        )


def describe(
    config: ShardConfig,
    channels: tuple[Window, ...],
    found: list[File],
    chosen: list[File],
    labels_sha256: str,
    corrected: dict[str, int | str] | None = None,
) -> dict[str, Any]:
    """The configuration for the manifest, as JSON values: all that decides the bytes of the data set.

    Paths and the number of workers decide none of them. `corrected` is what corrections of labels change.
    """
    from shards.packing import source_files, versions
    from shards.picture.windows import NAMED

    names = {value: name for name, value in NAMED.items()}
    return {
        "size": config.size,
        "windows": [
            {"name": names.get(channel, str(channel)), "center": channel.center, "width": channel.width}
            for channel in channels
        ],
        "encoding": config.encoding,
        "quality": config.quality if config.encoding == "jpeg" else None,
        "crop_head": config.crop_head,
        "min_brain_fraction": config.min_brain_fraction,
        "samples_per_shard": config.samples_per_shard,
        "order_key": config.order_key,
        "selection": config.selection,
        "key_style": source_files.key_style(found),
        "synthetic": config.synthetic,
        "labels_sha256": labels_sha256,
        "source_files": len(found),
        "source_sha256": source_files.digest(found),
        "selected_sha256": source_files.digest(chosen),
        "versions": versions.packages(),
        **({"ignored_ids": sorted(set(config.ignore_ids))} if config.ignore_ids else {}),
        **({"corrections": corrected} if corrected else {}),
    }
