"""The six labels, their order, and what they weigh."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LABELS = ("any", "epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")
"""The six labels of RSNA 2019, in the order of every array and table here."""

UNKNOWN = -1
"""An unknown label in int8 arrays; null in parquet, `null` in JSON. Never zero."""

LOSS_WEIGHTS = (2.0, 1.0, 1.0, 1.0, 1.0, 1.0)
"""Weight of each label in the training loss and the log loss: `any` counts twice (RSNA Intracranial Hemorrhage
Detection 2019, evaluation page)."""

SLICE_ID, CORRECTED = "id", "correct_"
"""Of the CSV of a review: the column of the sample's key, and what a corrected label's column begins with."""


def contradictory(labels: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
    """Slices with `any` 0 beside a positive subtype, or `any` 1 beside five negative ones, bool [n].

    Args:
        labels: int8 [n, 6].
    """
    whole, subtypes = labels[:, 0], labels[:, 1:]
    wrong = np.where(whole == 0, (subtypes == 1).any(axis=1), (subtypes == 0).all(axis=1))
    found: npt.NDArray[np.bool_] = wrong & (whole != UNKNOWN)
    return found


def as_cell(key: str) -> str:
    """A sample's key as a cell of a spreadsheet, which would take one that begins with `=` or `-` for a formula.

    >>> as_cell("ID_0123abcd9"), as_cell("=20x"), of_cell(as_cell("=20x"))
    ('ID_0123abcd9', './=20x', '=20x')
    """
    return f"./{key}" if key[:1] in ("=", "-") else key


def of_cell(cell: str) -> str:
    """The key that `as_cell` made the cell of; no key has a dot."""
    return cell.strip().removeprefix("./")
