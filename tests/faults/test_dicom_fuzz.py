"""Thousands of damaged real files: each gives a sample or a rejection, soon and in little memory."""

from __future__ import annotations

import multiprocessing
import random
import resource
from pathlib import Path

import pytest

from shards.dicom.decoder_process import SHARED
from tests.shards.dicom.test_read import assert_both_ways_agree
from tests.support.samples import MAX_BYTES, assert_sample_or_rejection


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """A copy with a few bytes changed, mostly in the headers, where they do most; at times cut short."""
    content = bytearray(whole)
    codestream = max(content.find(b"\xff\x4f\xff\x51"), content.find(b"\xff\xd8\xff"), 0)
    start, length = draw.choice([(0, len(content)), (0, 4000), (codestream, 600)])
    for _ in range(draw.choice([1, 1, 2, 5, 20])):
        content[(start + draw.randrange(length)) % len(content)] = draw.choice([0, 127, 128, 255, draw.randrange(256)])
    return bytes(content if draw.random() < 0.8 else content[: draw.randrange(len(content))])


def fuzz(folder: Path, cases: int, seed: int) -> None:
    draw = random.Random(seed)
    seeds = [path.read_bytes() for path in sorted((folder / "transfer_syntaxes").glob("*.dcm"))]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in range(cases):
        content = damaged(draw.choice(seeds), draw)
        assert_sample_or_rejection(content, (seed, case))
    SHARED.close()
    helper = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert helper * 1024 < MAX_BYTES
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < MAX_BYTES


def in_small_process(*arguments: object) -> None:
    """Fuzz in a process of its own: a child's peak memory counts from its parent's, and pytest's is large by then."""
    process = multiprocessing.get_context("spawn").Process(target=fuzz, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0


def test_damaged_real_files_give_a_sample_or_a_rejection(shared_dicom: Path) -> None:
    in_small_process(shared_dicom, 300, 0)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_thousands_of_damaged_real_files_give_a_sample_or_a_rejection(shared_dicom: Path) -> None:
    in_small_process(shared_dicom, 8000, 1)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_real_files_cut_at_every_kilobyte_give_a_sample_or_a_rejection(shared_dicom: Path) -> None:
    for path in sorted((shared_dicom / "transfer_syntaxes").glob("*.dcm")):
        content = path.read_bytes()
        for end in range(0, len(content), 1024):
            assert_sample_or_rejection(content[:end], (path.name, end))


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_thousands_of_damaged_plain_files_are_read_alike_by_both_ways(shared_dicom: Path) -> None:
    draw, short = random.Random(2), 0
    folder = shared_dicom / "head_ct"
    seeds = [(folder / f"{number:02d}.dcm").read_bytes() for number in (1, 14, 28)]
    for _ in range(4000):
        content = bytearray(draw.choice(seeds))
        for _ in range(draw.choice([1, 1, 2, 4])):
            content[128 + draw.randrange(4000)] = draw.choice([0, 127, 128, 255, draw.randrange(256)])
        short += assert_both_ways_agree(bytes(content))
    assert short > 100
