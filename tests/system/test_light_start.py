"""Help and the answer to a mistake come before anything heavy is imported."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from hemodist.bench.command_lines import COMMAND_LINES, ROOT, CommandLine, start

HEAVY = {"torch", "torchvision", "nvidia", "ray", "wandb", "captum", "matplotlib", "sklearn"}


def imported(said: str) -> set[str]:
    """Top packages in what `python -X importtime` prints."""
    return {name.partition(".")[0] for name in re.findall(r"^import time:.*\| +([\w.]+)$", said, re.MULTILINE)}


@pytest.fixture(scope="module")
def answers():
    """What each command line prints and returns: two at a time."""
    with ThreadPoolExecutor(2) as pool:
        done = pool.map(lambda line: start(line.words, "-X", "importtime"), COMMAND_LINES)
        return dict(zip(COMMAND_LINES, done, strict=True))


@pytest.mark.parametrize("line", COMMAND_LINES, ids=str)
def test_a_command_line_is_answered_before_anything_heavy_is_imported(line: CommandLine, answers) -> None:
    answer = answers[line]
    said = answer.stdout + re.sub(r"^import time:.*\n", "", answer.stderr, flags=re.MULTILINE)
    assert answer.returncode == line.code, said
    assert line.says in said
    loaded = imported(answer.stderr)
    assert "hemodist" in loaded
    assert not loaded & HEAVY


def test_every_job_is_among_them() -> None:
    jobs = {f"jobs/{path.name}" for path in (ROOT / "jobs").glob("*.py")}
    for code in (0, 2):
        assert {line.words[0] for line in COMMAND_LINES if line.code == code} >= jobs


def test_what_python_says_it_imports_is_read() -> None:
    found = imported(start(("-c", "import sklearn"), "-X", "importtime").stderr)
    assert {"sklearn", "numpy"} <= found
