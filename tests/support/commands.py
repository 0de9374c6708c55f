"""The commands that a document shows, taken out of its own text."""

from __future__ import annotations

import functools
import inspect
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tyro

ROOT = Path(__file__).parents[2]

PROGRAMS = ("uv", "uvx", "python", "python3", "pip", "pytest", "ray", "kubectl", "docker", "wandb", "kaggle", "ruff")
"""What a command may begin with, beside a path below `jobs/` and `.ci/run`; `export` sets what follows needs."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^(?: {4}.*)?\n)+", re.MULTILINE)
_SPAN = re.compile(r"`([^`]+)`")
_BEGINS = re.compile(rf"^(?:\$ )?((?:{'|'.join(PROGRAMS)}|export) \S|jobs/\w+\.py\b|\.ci/run\b)")


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        document: its file name below the tree.
        line: where it begins.
        text: as written, without comment, continued lines joined.
        section: what the document says from the last heading to the end of the command's own line.
    """

    document: str
    line: int
    text: str
    section: str

    @property
    def words(self) -> list[str]:
        """As a shell splits them, without `uv run` and its options: a program and its arguments."""
        words = shlex.split(self.text)
        if words[:2] == ["uv", "run"]:
            words = words[2:]
            while words[0] == "--group":
                words = words[2:]
        return ["python", *words] if words[0].startswith("jobs/") else words

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.text}"


def commands(document: str) -> list[Command]:
    """Every command of a document: in fenced and indented blocks, and between backticks in the text.

    A path alone between backticks, such as `jobs/train.py`, only names a file. Of a block of Python no line counts.
    """
    text = (ROOT / document).read_text()
    found = []
    for start, content in _blocks(text):
        for offset, line in _joined(content):
            if _BEGINS.match(line.lstrip()):
                found += _split(document, text, start + offset, line)
    for start, span in _spans(text):
        if _BEGINS.match(span) and " " in span and span != "uv run":
            found += _split(document, text, start, span)
    return sorted(found, key=lambda command: command.line)


def _blocks(text: str) -> list[tuple[int, str]]:
    fenced = [
        (match.start(2), match[2]) for match in _FENCE.finditer(text) if match[1] in ("", "bash", "console", "sh")
    ]
    blank = _blanked(text, _FENCE)
    return fenced + [(match.start(), match[0]) for match in _INDENTED.finditer(blank) if match[0].strip()]


def _spans(text: str) -> list[tuple[int, str]]:
    rest = _blanked(_blanked(text, _FENCE), _INDENTED)
    return [(match.start(), " ".join(match[1].split())) for match in _SPAN.finditer(rest) if "\n\n" not in match[1]]


def _blanked(text: str, pattern: re.Pattern[str]) -> str:
    """The text with spaces for what matches, so that all else stays where it is."""
    return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def _joined(content: str) -> list[tuple[int, str]]:
    """Lines with their offsets; one that ends in a backslash goes on in the next."""
    lines, at, start, pending = [], 0, 0, ""
    for line in content.splitlines(keepends=True):
        start = at if not pending else start
        pending += line.strip() + " "
        at += len(line)
        if pending.rstrip().endswith("\\"):
            pending = pending.rstrip()[:-1]
            continue
        lines.append((start, pending.strip()))
        pending = ""
    return lines


def _split(document: str, text: str, at: int, line: str) -> list[Command]:
    end = text.find("\n", at + 1)
    heading = max(text.rfind("\n#", 0, at), 0)
    section = text[heading : end if end >= 0 else len(text)]
    bare = re.sub(r"\s+#\s.*$", "", line.removeprefix("$ "))
    return [
        Command(document, text.count("\n", 0, at) + 1, part.strip(), section)
        for part in re.split(r"&&|\s\|\s", bare)
        if _BEGINS.match(part.strip())
    ]


class _UnderstoodError(Exception):
    """The command line was understood; nothing was done."""


def parse(script: Path, flags: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a job up to the point where its command line is understood.

    Raises:
        SystemExit: it is not; or help was asked for, with code 0.
    """

    def then_stop(parsed: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(target: Any, *arguments: Any, **options: Any) -> Any:
            if inspect.isfunction(target):  # a job's `main`: parse for it, do not call it
                parsed(_stub_of(target), *arguments, **options)
            else:
                parsed(target, *arguments, **options)
            raise _UnderstoodError

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), *flags])
        patch.setattr(tyro, "cli", then_stop(tyro.cli))
        with pytest.raises(_UnderstoodError):
            runpy.run_path(str(script), run_name="__main__")


def _stub_of(main: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the same signature that does nothing."""

    @functools.wraps(main)
    def nothing(*arguments: Any, **options: Any) -> None:
        return None

    return nothing
