"""A data set from a folder of DICOM files: `plan` decides what is left to do, `run` does it and finalises."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from hemodist.dataset.digest import config_digest
from hemodist.dataset.manifest import MANIFEST, Manifest, read_manifest
from hemodist.errors import ConfigError
from hemodist.storage import text_file
from hemodist.storage.store import Store, StoreError, shown
from shards.building import corrections, labels, listing, series, unfinished
from shards.building.finalise import finalise
from shards.building.index import SharedImages
from shards.building.options import ShardConfig, check, describe
from shards.packing import source_files, task, versions
from shards.packing.source_files import File

EXIT_TOO_MANY_REJECTED = 3
"""Exit code of a finished build with a larger share of faulty files than `max_rejected_fraction`."""

T = TypeVar("T")
R = TypeVar("R")
Mapper = Callable[[Callable[[task.Task], task.TaskResult], Sequence[task.Task]], Iterator[task.TaskResult]]
"""Applies a function to each task and yields the results in any order."""


@dataclass(frozen=True, eq=False)
class Tasks(Sequence[task.Task]):
    """The tasks of a build. Each is made when it is asked for, so that the driver holds little more than the listing.

    Attributes:
        files: the chosen files, in the order in which they are cut into shards.
        values: labels of the files, int8 [files, 6].
        per_shard: files in a task.
        template: a task without files; what all tasks share.
    """

    files: list[File]
    values: npt.NDArray[np.int8]
    per_shard: int
    template: task.Task

    def __len__(self) -> int:
        return -(-len(self.files) // self.per_shard)

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        part = slice(number * self.per_shard, (number + 1) * self.per_shard)
        labels_of_part = self.values[part].tobytes()
        return dataclasses.replace(self.template, number=number, files=tuple(self.files[part]), labels=labels_of_part)


@dataclass(frozen=True)
class BuildPlan:
    """What is to be done.

    Attributes:
        output: the data set.
        config: the configuration for the manifest.
        build_digest: digest of everything that decides the bytes, the pseudonym key included.
        tasks: one task a shard.
        not_selected: paths of the files that the selection leaves out.
        facts: what was found, for people.
    """

    output: Store
    config: dict[str, Any]
    build_digest: str
    tasks: Tasks
    not_selected: list[str]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """The data set is finished already; nothing is to be done."""

    output: Store
    manifest: Manifest


def plan(config: ShardConfig) -> BuildPlan | Finished:
    """Look at source, labels and output, and decide everything that is left to do.

    Only what `shards.building.unfinished` keeps is written; a dry run writes nothing.

    Raises:
        ConfigError: a flag, the source or the output cannot be used, or an unfinished data set is of another build.
        StoreError: a place cannot be read or written.
    """
    channels = check(config)
    source_store, output = Store.open(config.source), Store.open(config.output)
    _check_places(source_store, output)
    beside = labels.find(source_store)
    label_file = None if config.labels == labels.NO_LABELS else config.labels or beside
    table = labels.read(label_file) if label_file else labels.no_labels()
    listed = listing.list_files(source_store, label_file or beside)
    found = listed.files
    stems = [source_files.stem(file.path) for file in found]
    table, ambiguous = table.matched(stems, label_file)
    style = source_files.key_style(found)
    fixes = corrections.read(config.corrections) if config.corrections else corrections.Corrections()

    def keys(files: list[File]) -> list[str]:
        return [source_files.key_of(file.path, style) for file in files] if config.corrections else []

    fixes.check_known(keys(found))
    chosen, missing = _select(found, fixes.applied(keys(found), table.of(stems)), config)
    corrected = fixes.counts(keys(found), table.of(stems)) if config.corrections else None
    described = describe(config, channels, found, chosen, table.digest, corrected)
    if output.size(MANIFEST) is not None:
        manifest = read_manifest(output)
        # Finished with other versions is finished all the same; only going on would mix them.
        unfinished.compare(output, manifest.config, described | {"versions": manifest.config.get("versions")})
        if not config.dry_run:
            unfinished.clear(output)
        return Finished(output, manifest)
    going_on = described | {"versions": versions.all_versions()}
    going_on.pop("ignored_ids", None)  # it decides no shard, so that the shards of a run without it are kept
    if config.dry_run:
        key = bytes(unfinished.MIN_KEY_BYTES)  # No name that is made with it is written.
    else:
        key = unfinished.pseudonym_key(config.key_file, output)
        unfinished.begin(output, going_on, unfinished.key_check(key))
    ordered = source_files.in_order(chosen, config.order_key)
    build_digest = config_digest({"config": going_on, "key_check": unfinished.key_check(key)})
    names = tuple(entry["name"] for entry in described["windows"])
    packing = task.PackConfig(
        size=config.size,
        windows=names,
        encoding=config.encoding,
        quality=config.quality,
        crop_head=config.crop_head,
        min_brain_fraction=config.min_brain_fraction,
        key_style=described["key_style"],
    )
    template = task.Task(
        number=0,
        source=source_store.uri,
        output=output.uri,
        files=(),
        labels=b"",
        config=packing,
        build_digest=build_digest,
        pseudonym_key=key,
        versions=going_on["versions"],
    )
    values = fixes.applied(keys(ordered), table.of([source_files.stem(file.path) for file in ordered]))
    facts: dict[str, Any] = {"source files": len(found), "selected": len(chosen)}
    if listed.hidden:
        facts["hidden files and folders, left out"] = listed.hidden
    facts |= {"label file": label_file or "none: every label is unknown"}
    if label_file:
        unlabelled = int(np.count_nonzero((values < 0).all(axis=1)))
        without_file = table.report.slices - ambiguous - len(table.ids)
        facts |= {**table.report.counts(), "labels without a file": without_file}
        facts |= {"labels of a name that several files have": ambiguous, "files without labels": unlabelled}
    facts |= _corrected(described)
    if missing:
        facts["listed ids without a file"] = missing
    taken = {file.path for file in chosen}
    not_selected = [shown(file.path) for file in found if file.path not in taken]
    return BuildPlan(
        output, described, build_digest, Tasks(ordered, values, config.samples_per_shard, template), not_selected, facts
    )


def run(
    todo: BuildPlan, mapper: Mapper | None = None, tell: Callable[[task.TaskResult], None] | None = None
) -> tuple[Manifest, SharedImages | None]:
    """Run all tasks, then write index and manifest.

    Args:
        todo: what `plan` returned.
        mapper: how tasks are run; by default one after the other in this process.
        tell: called with the result of each task.

    Returns:
        The manifest, and what different samples share. The latter is None where another driver of the same build has
        finished it meanwhile.

    Raises:
        StoreError: something cannot be read or written; the same call goes on from there.
    """
    manifest: Manifest
    shared: SharedImages | None
    try:
        for result in (mapper or serial)(task.run_task, todo.tasks):
            if tell is not None:
                tell(result)
        manifest, shared = finalise(todo.output, len(todo.tasks), todo.build_digest, todo.config, todo.not_selected)
    except StoreError:
        if todo.output.size(MANIFEST) is None:
            raise
        # Another driver of the same build was faster, and has cleared what it no longer needs.
        manifest, shared = read_manifest(todo.output), None
        unfinished.compare(todo.output, manifest.config, todo.config)
    unfinished.clear(todo.output)
    return manifest, shared


def serial(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """The mapper that runs tasks in this process, one after the other."""
    return map(function, items)


def _check_places(source_store: Store, output: Store) -> None:
    if source_store.contains(output):
        raise ConfigError(f"the output {output.uri} lies in the source {source_store.uri}; choose a folder outside it")


def _select(found: list[File], known: npt.NDArray[np.int8], config: ShardConfig) -> tuple[list[File], int]:
    """The files that the selection takes, and the number of listed ids that no file has."""
    if config.selection == "all":
        return found, 0
    stems = [source_files.stem(file.path) for file in found]
    if config.selection == "list":
        assert config.ids is not None
        lines = text_file.read(config.ids, "the list of ids").decode().splitlines()
        wanted = {line.strip(" \t\0\"'") for line in lines} - {""}
        chosen = [file for file, name in zip(found, stems, strict=True) if name in wanted]
        if not chosen:
            raise ConfigError(f"none of the {len(wanted)} ids in {config.ids} is the name of a source file")
        return chosen, len(wanted - set(stems))
    whole = known[:, 0]
    positive = int(np.count_nonzero(whole == 1))
    if not positive:
        raise ConfigError("--selection balanced needs slices with the label `any`; give --labels, or select all")
    negatives = [
        (source_files.keyed(stems[row], config.order_key, b"balance"), row) for row in np.flatnonzero(whole == 0)
    ]
    taken = {row for _, row in sorted(negatives)[:positive]} | set(np.flatnonzero(whole == 1).tolist())
    return [file for row, file in enumerate(found) if row in taken], 0


def _corrected(config: Mapping[str, Any]) -> dict[str, Any]:
    """What corrections of labels have changed, for people; empty without any."""
    counts = config.get("corrections")
    if not counts:
        return {}
    return {
        "corrected labels": f"{counts['labels']:,} of {counts['slices']:,} slices",
        "corrections that say what the label file says": counts["confirmed"],
    }


def summary(manifest: Manifest, shared: SharedImages | None = None) -> dict[str, Any]:
    """What a finished data set holds, for people."""
    facts: dict[str, Any] = {
        "samples": manifest.samples,
        "source files": manifest.source_files,
        "second copies": manifest.duplicates,
        "shards": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "label": manifest.label_counts,
        **_corrected(manifest.config),
    }
    if manifest.series is not None:
        facts |= series.in_words(manifest.series)
    if manifest.identity is not None:
        identity = manifest.identity
        facts["groups that no split divides"] = identity["groups"]
        facts["samples of the largest group"] = identity["largest_group"]
        facts["joined by the same"] = identity["joins"]
        facts["identifiers of several spellings"] = identity["respelled"]
        if identity["nameless"]:
            facts["samples without patient, study and series"] = (
                f"{identity['nameless']:,}: a split may part the slices of one scan"
            )
    if shared is not None:
        facts["images shown by several samples"] = shared.images
        facts["of them with conflicting labels"] = shared.conflicting
        facts["second copies that contradict the labels of the used ones"] = shared.conflicting_duplicates
        facts["SOP Instance UIDs that different images share, all used"] = shared.shared_identifiers
    return facts
