"""The learning rate that a range test has found, kept with the run, and whether it may be used for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from annotated_types import Ge, Le

from hemodist.config.fields import DecidesBestLr, values_marked
from hemodist.config.run import Run
from hemodist.dataset.typed import typed
from hemodist.errors import ConfigError
from hemodist.plan.prepare import Prepared
from hemodist.storage.store import Store, StoreError, join
from hemodist.training.lr_curve import Reading

FOLDER = "find_lr"
RESULT = f"{FOLDER}/found_lr.json"
PLOT = f"{FOLDER}/find_lr.png"


@dataclass(frozen=True)
class FoundLr:
    """The result of a range test.

    Attributes:
        reading: the rate to use, and others; or why there is none.
        rates: of each step that was made.
        losses: mean loss over the global batch of each step.
        smoothed: what the reading comes from.
        origin: what the result holds for, see `origin_of`.
    """

    reading: Reading
    rates: Sequence[float]
    losses: Sequence[float]
    smoothed: Sequence[float]
    origin: Mapping[str, Any]


@dataclass(frozen=True)
class _Read:
    """The rate that a run takes, within the bounds of `optim.lr`, or why there is none."""

    failed: str
    lr: Annotated[float, Ge(1e-12), Le(100)] | None


@dataclass(frozen=True)
class _Used:
    """What a run takes from the file."""

    reading: _Read
    origin: dict[str, Any]


def origin_of(run: Run, prepared: Prepared) -> dict[str, Any]:
    """What a found learning rate depends on, by dotted name, as JSON has it.

    Schedule, epochs and the number of workers do not enter the test, so they are not among it.
    """
    digests = {"data set": prepared.dataset.manifest.digest, "split": prepared.split.digest}
    plain: dict[str, Any] = json.loads(json.dumps(digests | values_marked(run, DecidesBestLr)))
    return plain


def with_found_lr(run: Run, prepared: Prepared) -> Run:
    """The same run with `optim.lr found` replaced by the number that was found for it.

    Raises:
        ConfigError: nothing was found yet, the test has failed, or it was for another network, batch or data set; the
            text says why, or names what differs.
    """
    if run.optim.lr != "found":
        return run
    where = join(run.output, run.name)
    try:
        found = typed(_Used, Store.open(where).read(RESULT))
    except StoreError as error:
        raise ConfigError(
            f"optim.lr found, but {where}/{RESULT} is not there; run `python jobs/find_lr.py` with the same recipe, "
            "name, output and data set first, or give a number"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{where}/{RESULT} cannot be read ({error}); run `python jobs/find_lr.py` again") from error
    now, origin = origin_of(run, prepared), found.origin
    differing = [
        f"{name} was {origin.get(name)}, is {now.get(name)}"
        for name in sorted(now.keys() | origin.keys())
        if now.get(name) != origin.get(name)
    ]
    if differing:
        raise ConfigError(
            f"optim.lr found: {where}/{RESULT} was found for another run: {'; '.join(differing)}; "
            "run `python jobs/find_lr.py` for this one, or give a number"
        )
    reading = found.reading
    if reading.failed or reading.lr is None:
        raise ConfigError(
            f"optim.lr found: the test of {where}/{RESULT} has found none: {reading.failed}; run "
            "`python jobs/find_lr.py` so, or give a number"
        )
    return replace(run, optim=replace(run.optim, lr=reading.lr))
