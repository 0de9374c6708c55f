"""Predictions as tables: RSNA's submission format, a row a slice, a row a study, and the files without a prediction."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hemodist.dataset.labels import LABELS
from hemodist.errors import ConfigError
from hemodist.metrics.pooling import POOLINGS, Pooled, unit_names
from hemodist.metrics.probabilities import with_prevalence
from hemodist.predict.new_slices import PredictedSlices
from hemodist.predict.options import PredictConfig
from hemodist.storage.store import Store

ROW_ORDER = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any")
"""Order of a slice's six rows in RSNA's files."""

Rows = Iterable[Sequence[Any]]


def merged(chunks: Iterable[PredictedSlices]) -> PredictedSlices:
    """All parts as one, slices sorted by key and rejected files by path.

    Raises:
        ConfigError: there is nothing at all.
    """
    parts = list(chunks)
    rejected = sorted(row for part in parts for row in part.rejected)
    keys = [key for part in parts for key in part.keys]
    if not keys and not rejected:
        raise ConfigError("there is no slice to predict")
    order = sorted(range(len(keys)), key=keys.__getitem__)

    def all_of(name: str) -> list[Any]:
        values = [value for part in parts for value in getattr(part, name)]
        return [values[i] for i in order]

    probability = np.concatenate([part.probability for part in parts])[order]
    return PredictedSlices(
        all_of("keys"), all_of("names"), all_of("paths"), all_of("studies"), all_of("series"), probability, rejected
    )


def write(
    output: str,
    predicted: PredictedSlices,
    prevalence: npt.NDArray[np.float64],
    page: str,
    trained_on: Mapping[str, Any],
) -> dict[str, str]:
    """Write `NAME.csv` (RSNA's) and what stands beside it; returns what is where.

    Args:
        output: path or URI of `NAME.csv`.
        predicted: all slices, see `merged`.
        prevalence: float64 [6], of the training, see `submission_rows`.
        page: HTML, `NAME.html`.
        trained_on: `NAME.about.json`.

    Raises:
        StoreError: one cannot be written.
    """
    store, name = place(output)
    stem = name.removesuffix(".csv")
    contents = {
        "submission": (name, _csv(("ID", "Label"), submission_rows(predicted, prevalence))),
        "slices and files": (f"{stem}.files.csv", _csv(FILE_COLUMNS, file_rows(predicted))),
        "studies": (f"{stem}.studies.csv", _csv(STUDY_COLUMNS, study_rows(predicted))),
        "rejected": (f"{stem}.rejected.csv", _csv(("path", "reason", "detail"), predicted.rejected)),
        "about the networks": (f"{stem}.about.json", (json.dumps(trained_on, indent=2) + "\n").encode()),
        "page": (f"{stem}.html", page.encode("utf-8", "backslashreplace")),
    }
    for file, content in contents.values():
        store.write(file, content)
    return {kind: f"{store.uri}/{file}" for kind, (file, _) in contents.items()}


def place(output: str) -> tuple[Store, str]:
    """The folder of an output file, and the file's name.

    Raises:
        ConfigError: it is not named `.csv`.
    """
    if not output.endswith(".csv") or output.endswith("/.csv") or output == ".csv":
        raise ConfigError(f"the output {output} must be a .csv file; its folder also gets the studies and the reasons")
    full = output if "://" in output else str(Path(output).expanduser().resolve())
    folder, _, name = full.rpartition("/")
    return Store.open(folder or "/"), name


def check_places(config: PredictConfig, source: Store, is_dataset: bool) -> None:
    """Check that the flags suit the source, and that nothing is written into it.

    Raises:
        ConfigError: they do not.
    """
    if is_dataset and config.workers:
        raise ConfigError(
            f"{source.uri} is a data set, which is predicted in this process, on its GPU where there is one; leave "
            "--workers out, it is for folders of DICOM files"
        )
    for output in (place(config.output)[0], *([] if config.explain is None else [Store.open(config.explain)])):
        if source.contains(output):  # what is written there would be taken for a scan the next time
            raise ConfigError(f"{output.uri} lies in the source {source.uri}; choose a folder outside it")


def submission_rows(predicted: PredictedSlices, prevalence: npt.NDArray[np.float64]) -> Rows:
    """Six rows a slice: `ID_label` and its probability; `prevalence` [6] for a label that no network has learned.

    RSNA's format asks for six numbers. The other files leave such a label blank.
    """
    columns = [(label, LABELS.index(label)) for label in ROW_ORDER]
    for name, probability in zip(predicted.names, with_prevalence(predicted.probability, prevalence), strict=True):
        for label, column in columns:
            yield f"{_no_formula(name)}_{label}", _number(probability[column])


FILE_COLUMNS = ("ID", "path", "study", "series", "key", *LABELS)
"""Of the table of slices: the submission's ID, the file below the source (empty for a data set), pseudonyms."""


def file_rows(predicted: PredictedSlices) -> Rows:
    """A row a slice, which leads from the submission's ID to the file."""
    named = (predicted.names, predicted.paths, predicted.studies, predicted.series, predicted.keys)
    for *row, probability in zip(*named, predicted.probability, strict=True):
        yield *(_no_formula(one or "") for one in row), *map(_number, probability)


STUDY_COLUMNS = (
    "study", "slices", "highest_slice",
    *LABELS, *(f"{label}_noisy_or" for label in LABELS),
)  # fmt: skip
"""Of the table of studies: the largest probabilities by label, then those of noisy-or."""


def study_rows(predicted: PredictedSlices) -> Rows:
    """A row a study: its slices, the one with the highest P(any), and the pooled probabilities.

    A slice whose file names no study is a study of its own, its ID in brackets. Blank: a label that was not learned.
    """
    if not predicted.keys:
        return
    pooled = Pooled.of(unit_names(predicted.studies, np.array(predicted.names)))
    most, noisy = (pooled.probability(predicted.probability, pooling) for pooling in POOLINGS)
    slices = np.bincount(pooled.unit)
    best: dict[int, int] = {}
    for at in np.argsort(-predicted.probability[:, LABELS.index("any")], kind="stable").tolist():
        best.setdefault(int(pooled.unit[at]), at)
    for unit, name in enumerate(pooled.names.tolist()):
        numbers = map(_number, (*most[unit], *noisy[unit]))
        yield _no_formula(name), int(slices[unit]), _no_formula(predicted.names[best[unit]]), *numbers


def _number(value: float) -> str:
    """A probability; empty where there is none."""
    return "" if math.isnan(value) else f"{value:.9g}"


def _no_formula(text: str) -> str:
    """The same file's name, which no spreadsheet takes for a formula.

    >>> _no_formula("a/b"), _no_formula("=cmd")
    ('a/b', './=cmd')
    """
    return f"./{text}" if text[:1] in tuple("=+-@") else text


def _csv(header: Sequence[str], rows: Rows) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")
