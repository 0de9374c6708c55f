"""The tree shows the architecture: a README a room that names its modules, and files that are read in one sitting."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = sorted(path.parent for package in ("hemodist", "shards") for path in (ROOT / package).glob("*/__init__.py"))
DOCUMENTS = [ROOT / "README.md"] + [
    file for folder in ("hemodist", "shards", "jobs", "tests", "k8s") for file in sorted((ROOT / folder).rglob("*.md"))
]
MOST_LINES = 300


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: f"{room.parent.name}-{room.name}")
def test_the_readme_of_a_room_names_its_modules_and_no_others(room: Path) -> None:
    text = (room / "README.md").read_text()
    named = set(re.findall(r"^- `(\w+)/?`:", text, re.MULTILINE))
    there = {path.stem for path in room.glob("*.py")} - {"__init__"}
    there |= {path.parent.name for path in room.glob("*/__init__.py")}
    assert named == there
    assert 8 <= len(text.splitlines()) <= 60


def test_the_readme_of_a_package_links_to_each_room_and_what_links_name_is_there() -> None:
    for package in ("hemodist", "shards"):
        text = (ROOT / package / "README.md").read_text()
        rooms = {room.name for room in ROOMS if room.parent.name == package}
        assert rooms <= set(re.findall(r"\]\((\w+)/README\.md\)", text))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_of_a_document_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_no_file_is_longer_than_a_sitting() -> None:
    files = [file for folder in ("hemodist", "shards", "jobs") for file in (ROOT / folder).rglob("*.py")]
    long = {str(file.relative_to(ROOT)): n for file in files if (n := len(file.read_text().splitlines())) > MOST_LINES}
    assert len(files) > 150
    assert long == {}


def test_packages_hold_no_code_of_their_own() -> None:
    for package in ("hemodist", "shards"):
        for file in (ROOT / package).rglob("__init__.py"):
            assert file.read_text() == "", file


def test_nothing_that_a_worker_runs_is_defined_in_a_job() -> None:
    """Workers import what they run by name, and `jobs` is no package."""
    for job in (ROOT / "jobs").glob("*.py"):
        text = job.read_text()
        assert "ray.remote" not in text, job
        assert not re.search(r"^from jobs|^import jobs", text, re.MULTILINE), job
    for package in ("hemodist", "shards"):
        for file in (ROOT / package).rglob("*.py"):
            assert not re.search(r"^\s*(from|import) jobs\b", file.read_text(), re.MULTILINE), file
