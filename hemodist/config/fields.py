"""What a field of a configuration says about itself, and the functions that read it.

A field carries its range and what it decides as an annotation, as in

    epochs: Annotated[int, Range(1, 100_000), DecidesResult()] = 4

and its unit and meaning in the docstring under it. That is the help of its flag, where its lines break too: a sentence
ends where a line does. Nothing else lists fields: what is checked, what a checkpoint is compared by and what a found
learning rate holds for are read from here.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hemodist.errors import ConfigError

MANY = 2**31 - 1
"""Largest value of a count that has no bound of its own."""


@dataclass(frozen=True)
class Range:
    """The smallest and the largest value of a number, both allowed; of a tuple, of each number in it.

    Attributes:
        low: the smallest value.
        high: the largest value.
        checked_by: dotted name, below `hemodist`, of what checks the field where other fields or the data set narrow
            the range further; its message names them. `check_ranges` then checks `high` alone. None where it
            checks both.
    """

    low: float
    high: float
    checked_by: str | None = None


@dataclass(frozen=True)
class DecidesResult:
    """Another value gives another result beyond rounding, so a checkpoint goes on only with the same one.

    Not marked are fields that say where and how fast a run computes, fields that a checkpoint has replaced (the
    initial weights), and fields that choose samples: the digests of data set and split stand for those.
    """


@dataclass(frozen=True)
class DecidesSamples(DecidesResult):
    """Another value gives other batches of training samples, so a loader's state holds only for the same one."""


@dataclass(frozen=True)
class DecidesBestLr:
    """Another value moves the best learning rate, so a found one holds only for the same value."""


@dataclass(frozen=True)
class Often:
    """People change it often, or must give it, so `--help` shows it before the others.

    Attributes:
        required: a recipe leaves it empty.
    """

    required: bool = False


@dataclass(frozen=True)
class Word:
    """A word that a command line takes for a number.

    Attributes:
        text: the word.
        value: the number, which nobody gives as such.
    """

    text: str
    value: int


@dataclass(frozen=True)
class Field:
    """One field of a configuration.

    Attributes:
        owner: the dataclass that it is a field of.
        name: dotted, such as `optim.lr`.
        value: what the configuration has there.
        type: the annotation without its notes.
        notes: the annotation's `Range`, `DecidesResult` and the like.
    """

    owner: type
    name: str
    value: Any
    type: Any
    notes: tuple[object, ...]

    @property
    def word(self) -> Word | None:
        """The word that stands for a number; None where there is none."""
        return next((note for note in self.notes if isinstance(note, Word)), None)

    @property
    def range(self) -> Range | None:
        """The range; None where the field is no number."""
        return next((note for note in self.notes if isinstance(note, Range)), None)


def fields_of(config: Any, prefix: str = "") -> Iterator[Field]:
    """The fields of a dataclass and of the dataclasses in it, in order."""
    for name, annotation in _annotations(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, f"{prefix}{name}.")
        elif typing.get_origin(annotation) is typing.Annotated:
            yield Field(type(config), prefix + name, value, annotation.__origin__, annotation.__metadata__)
        else:
            yield Field(type(config), prefix + name, value, annotation, ())


def values_marked(config: Any, mark: type) -> dict[str, Any]:
    """The values, by dotted name, of the fields that are marked so."""
    return {field.name: field.value for field in fields_of(config) if any(isinstance(n, mark) for n in field.notes)}


def check_ranges(config: Any) -> None:
    """Check the numbers of a configuration; what stands for a number (None, a word) passes.

    Raises:
        ConfigError: naming the field, its value and the range.
    """
    for field in fields_of(config):
        if field.range is None:
            continue
        for value in field.value if isinstance(field.value, tuple) else (field.value,):
            narrowed = field.range.checked_by and value is not None and value <= field.range.high
            if not isinstance(value, str) and not narrowed:
                check_numbers(**{field.name: (value, field.range.low, field.range.high)})


def check_numbers(**given: tuple[float | None, float, float]) -> None:
    """Check numbers by name: (value, smallest, largest); None passes.

    Raises:
        ConfigError: naming the first that is out of range.
    """
    for name, (value, low, high) in given.items():
        if value is not None and not low <= value <= high:  # true for NaN
            raise ConfigError(f"{name} {value} is out of range; use {low:g} to {high:g}")


def read_empty_as_none(config: Any, *names: str) -> None:
    """Replace 0 and "" in these fields by None.

    Both meant "not given" once: checkpoints that are older than the None have them, and command lines may.
    """
    for name in names:
        if not getattr(config, name):
            object.__setattr__(config, name, None)  # also of a frozen dataclass, while it is built


def _annotations(of: type) -> dict[str, Any]:
    hints = typing.get_type_hints(of, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(of)}
