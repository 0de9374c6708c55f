"""Writes a synthetic head CT data set in RSNA's own layout: `python -m shards phantom OUT`.

    OUT/stage_2_train/ID_<9 hex>.dcm
    OUT/stage_2_train.csv               six rows a slice, written last

Everything can run on it without RSNA's data, and tests know the truth of every pixel. It is for demonstrations and
tests only: no score on it says anything about medical performance. This module gives each patient to a process; the
other modules of the room make plan, anatomy, hemorrhages and files. The bytes depend on (seed, slices, size) and on the
versions of numpy, scipy and pydicom, never on the number of processes.
"""

from __future__ import annotations

import functools
import io
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hemodist.dataset.labels import LABELS
from hemodist.errors import UserError
from hemodist.storage.local_files import PARTIAL_SUFFIX
from hemodist.storage.store import Store
from shards.phantom.anatomy import SUBTYPES, draw_subject, render
from shards.phantom.patients import Patient, draw_plan, identifiers
from shards.phantom.scanner import FAULTY, SCANNERS, Names, encode

IMAGES, TABLE, MASKS = "stage_2_train", "stage_2_train.csv", "masks"
"""Names in the data set, as in RSNA's; masks are this generator's own."""

ROW_ORDER = (*SUBTYPES, "any")
"""Order of a slice's six rows in RSNA's table."""

Row = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class PhantomSummary:
    """What has been written.

    Attributes:
        slices: number of slices.
        patients: number of patients.
        counts: slices with label 1, by label.
        images: folder of the DICOM files.
        table: the CSV file of labels.
    """

    slices: int
    patients: int
    counts: dict[str, int]
    images: Path
    table: Path


@dataclass(frozen=True, slots=True)
class _PatientTask:
    """What a process needs to write one patient."""

    out: str
    seed: int
    size: int
    patient: Patient
    names: tuple[Names, ...]
    masks: bool


@functools.lru_cache(maxsize=8)
def plan_of(seed: int, slices: int, size: int = 512) -> tuple[tuple[Patient, ...], tuple[tuple[Names, ...], ...]]:
    """The patients of a data set and, for each, the identifiers of its slices.

    Args:
        seed: 0 to 2**63 - 1.
        slices: in total, 1 to 2**36 - 1.
        size: rows and columns, at least 64; part of the identifiers, so that two data sets never mix in one folder.

    Raises:
        UserError: an argument is out of range.
    """
    if not 0 <= seed < 2**63:
        raise UserError(f"seed {seed} is not in 0 to 2**63 - 1; choose another")
    if not 1 <= slices < 2**36:
        raise UserError(f"{slices} slices cannot be made; ask for at least 1")
    if not 64 <= size <= 1024:
        raise UserError(f"size {size} is not in 64 to 1024; RSNA's slices have 512")
    patients = draw_plan(seed, slices, scanners=len(SCANNERS), faulty=FAULTY)
    people = np.arange(len(patients), dtype=np.uint64)
    slice_ids = identifiers(seed, slices, size, np.arange(slices, dtype=np.uint64), digits=9)
    patient_ids = identifiers(seed, slices, size, people, digits=8)
    studies = identifiers(seed, slices, size, people * np.uint64(2), digits=10)
    series = identifiers(seed, slices, size, people * np.uint64(2) + np.uint64(1), digits=10)
    return patients, tuple(
        tuple(
            Names(slice_ids[i], patient_ids[p.number], studies[p.number], series[p.number])
            for i in range(p.first, p.first + p.count)
        )
        for p in patients
    )


def generate(
    out: Path,
    *,
    slices: int = 1500,
    seed: int = 0,
    workers: int | None = None,
    size: int = 512,
    masks: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PhantomSummary:
    """Write a synthetic data set of exactly `slices` slices.

    A folder that an earlier, interrupted or finished call with the same arguments left is completed to the same bytes.

    Args:
        out: folder of the data set; missing, empty, or from a call with the same arguments.
        slices: in total.
        seed: of everything random.
        workers: processes; None for one a core, 1 for the calling process alone.
        size: rows and columns of a slice.
        masks: whether to write the truth too, `masks/ID_<9 hex>.npz` with `masks` bool (5, size, size) in the order of
            `LABELS[1:]`, for slices with a hemorrhage.
        progress: called with the slices done and in total, after each patient.

    Raises:
        UserError: an argument is out of range, or `out` holds something else.
    """
    if workers is not None and workers < 1:
        raise UserError(f"{workers} workers cannot write anything; use 1 or more")
    patients, names = plan_of(seed, slices, size)
    out = Path(out).expanduser().resolve()
    _check_folder(out, {name.slice_id for of_patient in names for name in of_patient})
    store = Store.open(out)
    store.check_writable()
    tasks = [_PatientTask(str(out), seed, size, p, names[p.number], masks) for p in patients]
    rows: list[Row] = []
    for written in _run(tasks, min(workers or _cores(), len(tasks))):
        rows += written
        if progress is not None:
            progress(len(rows), slices)
    rows.sort()
    store.write(TABLE, _table(rows))
    counts = dict(zip(ROW_ORDER, np.sum([labels for _, labels in rows], axis=0).tolist(), strict=True))
    return PhantomSummary(slices, len(patients), {x: counts[x] for x in LABELS}, out / IMAGES, out / TABLE)


def labels_of(masks: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    """The six labels of a slice in `ROW_ORDER`, from its masks, bool (5, size, size)."""
    present = tuple(int(mask.any()) for mask in masks)
    return (*present, max(present))


def _table(rows: list[Row]) -> bytes:
    lines = ["ID,Label"]
    for slice_id, labels in rows:
        lines += [f"{slice_id}_{name},{label}" for name, label in zip(ROW_ORDER, labels, strict=True)]
    return ("\n".join(lines) + "\n").encode()


def _check_folder(out: Path, slice_ids: set[str]) -> None:
    """Refuse a folder with anything that the call will not write itself; drop what a killed call left half written."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is not a folder; name another one")
    allowed = {TABLE} | {f"{IMAGES}/{x}.dcm" for x in slice_ids} | {f"{MASKS}/{x}.npz" for x in slice_ids}
    strange = 0
    example = ""
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_dir() and name in (IMAGES, MASKS):
            continue
        if path.name.endswith(PARTIAL_SUFFIX):
            whole = name.removesuffix(PARTIAL_SUFFIX).rpartition(".")[0]
            if whole in allowed:
                path.unlink()
                continue
        if name not in allowed:
            strange, example = strange + 1, example or name
    if strange:
        raise UserError(
            f"{out} holds {strange} files or folders of something else, for example {example}; "
            "name an empty folder, or use the seed, slices and size that made this one"
        )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _run(tasks: list[_PatientTask], workers: int) -> Iterator[list[Row]]:
    """Write the patients, in any order; the pool is gone when the iterator is, however it ends."""
    if workers == 1:
        yield from map(_write_patient, tasks)
        return
    # A fresh interpreter for each process: forking a caller that has threads (torch, Arrow) may hang.
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_ignore_interrupt) as pool:
        try:
            yield from pool.imap_unordered(_write_patient, tasks)
        finally:
            pool.terminate()
            pool.join()


def _ignore_interrupt() -> None:
    """Leave Ctrl-C, which reaches the whole group, to the parent, which then ends the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_patient(task: _PatientTask) -> list[Row]:
    """Write one patient's files and return identifier and labels of each slice."""
    store = Store.open(task.out)
    subject = draw_subject(task.patient, task.seed, task.size)
    scanner = SCANNERS[task.patient.scanner]
    rows: list[Row] = []
    for k, names in enumerate(task.names):
        hu, masks = render(subject, k)
        content = encode(hu, scanner, subject.scan, k, names, monochrome1=task.patient.monochrome1)
        store.write(f"{IMAGES}/{names.slice_id}.dcm", content)
        labels = labels_of(masks)
        if task.masks and labels[-1]:
            archive = io.BytesIO()
            np.savez_compressed(archive, masks=masks)
            store.write(f"{MASKS}/{names.slice_id}.npz", archive.getvalue())
        rows.append((names.slice_id, labels))
    return rows
