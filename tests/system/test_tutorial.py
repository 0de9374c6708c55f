"""The tutorial is run: its own text, in its order, in a copy of the tree, where its recipe is written.

By default on fewer slices and for fewer steps; with `-m faults` as it stands.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.commands import ROOT, Command, commands, parse
from tests.support.forks import fork
from tests.support.processes import start

PAGE = "jobs/TUTORIAL.md"
TEXT = (ROOT / PAGE).read_text()
NEEDS_DATA = TEXT[: TEXT.index("## 11.")].count("\n")
"""The line from which on commands need RSNA's data."""

SHOWN = commands(PAGE)
RUN = [command for command in SHOWN if command.line <= NEEDS_DATA and "--help" not in command.text]
FEWER = {
    "--slices 600": "--slices 250", "--samples-per-shard 128": "--samples-per-shard 64", "--steps 80": "--steps 40",
    "--epochs 3": "--epochs 1", "--optim.epochs 4": "--optim.epochs 2",
}  # fmt: skip
"""Of what there is less by default; it changes numbers and no row of what is printed."""

MAY_FIND_SOMETHING_TO_DO = ("doctor",)
"""Exit code 1 is an answer there."""


@pytest.fixture(scope="module", params=[FEWER, pytest.param({}, marks=pytest.mark.faults)], ids=["fewer", "whole"])
def less(request: pytest.FixtureRequest) -> dict[str, str]:
    """What is replaced in the commands."""
    found: dict[str, str] = request.param
    return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, less: dict[str, str]) -> Iterator[Path]:
    """A copy of what the page's reader has, `said` beside it: what each command has printed, by its line."""
    folder = tmp_path_factory.mktemp("tutorial") / "hemodist"
    for part in ("jobs", "hemodist", "shards"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder.parent / "said").mkdir()
    yield folder
    shutil.rmtree(folder.parent)


def write_recipe(checkout: Path) -> None:
    """Do what the page says: the function above the list of recipes, and its name in the list."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    (name,) = re.findall(r"^def (\w+)\(", block, re.MULTILINE)
    path = checkout / "hemodist/config/recipes.py"
    before, mark, after = path.read_text().partition("RECIPES: ")
    first, end, rest = after.partition("\n)")
    assert mark
    assert end
    path.write_text(f"{before}{block}\n\n{mark}{first}\n    {name},{end}{rest}")


@pytest.mark.parametrize("command", RUN, ids=lambda command: f"line{command.line}")
def test_each_command_works_after_those_before_it(
    command: Command, checkout: Path, less: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = TEXT[: TEXT.index("```python")].count("\n")
    if command.line > recipe and "def mine" not in (checkout / "hemodist/config/recipes.py").read_text():
        write_recipe(checkout)
    text = command.text
    for more, fewer in less.items():
        text = text.replace(more, fewer)
    python, *words = replace(command, text=text).words
    assert python == "python"
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    monkeypatch.setenv("COLUMNS", "100")
    said = checkout.parent / "said" / f"{command.line:04d}"
    # `-m shards` is light; what trains imports for seconds.
    done = start(words, checkout, said)[0] if words[0] == "-m" else fork([*words], checkout, said, tree=checkout)
    code = done.wait()
    allowed = {0, 1} if any(f"jobs/{job}.py" in command.text for job in MAY_FIND_SOMETHING_TO_DO) else {0}
    assert code in allowed, said.read_text()


def test_the_page_shows_what_the_commands_print(checkout: Path) -> None:
    """Row by row; numbers and verdicts depend on the machine."""
    said = {masked(line) for path in (checkout.parent / "said").iterdir() for line in path.read_text().splitlines()}
    text = re.sub(r"^```python\n.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    shown = [line for line in re.findall(r"^ {4}(.+)$", text, re.MULTILINE) if is_output(line)]
    assert len(shown) > 20
    for line in shown:
        assert masked(line) in said, line


def test_files_that_the_page_wants_looked_at_are_there(checkout: Path) -> None:
    named = set(re.findall(r"`(hour/[\w./-]+)`", TEXT))
    assert {"hour/sheet.png", "hour/study/study.html"} <= named
    for name in named:
        assert (checkout / name).exists(), name


def test_the_readers_own_recipe_stands_in_the_table(checkout: Path) -> None:
    found = json.loads((checkout / "hour/study/study.json").read_text())
    systems = {system["name"]: system for system in found["systems"]}
    assert {"constant prevalence", "resnet18", "alexnet", "mine"} <= systems.keys()
    assert systems["mine"]["seeds"] == [0, 1]


@pytest.mark.parametrize("command", [c for c in SHOWN if c not in RUN], ids=lambda command: f"line{command.line}")
def test_commands_that_need_the_data_are_understood(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    if "--help" in command.text:
        with pytest.raises(SystemExit) as ended:
            parse(ROOT / command.words[1], command.words[2:], monkeypatch)
        assert ended.value.code == 0
    else:
        parse(ROOT / command.words[1], command.words[2:], monkeypatch)


def is_output(line: str) -> bool:
    """Whether an indented line is none of a command, its continuation or of the list in the text."""
    text = line.strip()
    return not text.startswith(("uv ", "--")) and not any(text in command.text for command in SHOWN)


def masked(line: str) -> str:
    """The first three words of a line: what row it is, without numbers, intervals, box drawing and folders."""
    words = [word for word in re.findall(r"[^\W\d_]\w+", line.partition("/")[0]) if word != "to"]
    return " ".join(words[:3])
