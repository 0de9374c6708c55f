"""The README tells the truth."""

from __future__ import annotations

import re
from pathlib import Path

from hemodist.config.recipes import RECIPES
from shards.dicom.reasons import Reason

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_table_of_reasons_is_the_codes_own():
    table = README.split("## Why a file is not a sample")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE))
    assert rows == {reason.value: reason.meaning for reason in Reason}


def test_every_job_and_recipe_that_is_named_exists():
    for job in re.findall(r"jobs/(\w+)\.py", README):
        assert (ROOT / "jobs" / f"{job}.py").is_file(), job
    named = set(re.findall(r"jobs/train\.py (\w+) ", README)) - {"RECIPE"}
    assert named <= {recipe.__name__ for recipe in RECIPES}
    assert named


def test_every_recipe_has_its_place_in_the_table():
    table = README.split("| recipe | what it is |")[1].split("\n\n")[0]
    first = "".join(re.findall(r"^\| (.+?) \|", table, re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", first)) == {recipe.__name__ for recipe in RECIPES}


def test_every_room_stands_in_the_tree():
    tree = README.split("## The tree")[1].split("\n## ")[0]
    for package in ("hemodist", "shards"):
        block = tree.split(f"    {package}/")[1]
        block = re.split(r"\n    \w", block)[0]
        rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert set(re.findall(r"^      (\w+)/", block, re.MULTILINE)) == rooms
