"""Who is in the synthetic data set."""

from __future__ import annotations

import numpy as np
import pytest

from shards.phantom.anatomy import SUBTYPES, draw_subject, masks_of
from shards.phantom.generate import labels_of
from shards.phantom.patients import draw_plan, generator, identifiers
from shards.phantom.scanner import FAULTY, SCANNERS


def plan(seed: int, slices: int):
    return draw_plan(seed, slices, scanners=len(SCANNERS), faulty=FAULTY)


@pytest.mark.parametrize("slices", [1, 19, 20, 45, 61, 99, 1500, 5003])
def test_slices_are_exact_and_patients_have_20_to_60(slices: int) -> None:
    patients = plan(7, slices)
    assert sum(p.count for p in patients) == slices
    assert [p.first for p in patients] == np.cumsum([0, *(p.count for p in patients[:-1])]).tolist()
    if slices >= 20:
        assert all(20 <= p.count <= 60 for p in patients)


def test_plan_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    assert plan(5, 700) == plan(5, 700)
    assert plan(5, 700) != plan(6, 700)


def test_generators_differ_in_every_part_of_their_key() -> None:
    keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    draws = [generator(*key).integers(0, 2**60, 4).tolist() for key in keys]
    assert len({tuple(d) for d in draws}) == len(keys)
    assert draws[0] == generator(0, 0, 0, 0).integers(0, 2**60, 4).tolist()


def test_every_scanner_and_monochrome1_occur_in_1500_slices() -> None:
    patients = plan(0, 1500)
    assert {p.scanner for p in patients} == set(range(len(SCANNERS)))
    inverted = [p for p in patients if p.monochrome1]
    assert 1 <= len(inverted) <= 3
    assert all(p.scanner not in FAULTY for p in inverted)


def test_identifiers_never_collide() -> None:
    found = identifiers(1, 2, 3, np.arange(200_000, dtype=np.uint64), digits=9)
    assert len(set(found)) == len(found)
    assert all(len(x) == 12 and x.startswith("ID_") and int(x[3:], 16) < 16**9 for x in found[:100])
    few = identifiers(1, 2, 3, np.arange(16**4, dtype=np.uint64), digits=4)
    assert sorted(int(x[3:], 16) for x in few) == list(range(16**4))


@pytest.mark.parametrize("seed", [0, 1])
def test_label_rates_of_1500_slices_are_near_rsna_s(seed: int) -> None:
    rows = []
    for patient in plan(seed, 1500):
        if patient.lesions:
            subject = draw_subject(patient, seed, 96)
            rows += [labels_of(masks_of(subject, k)) for k in range(patient.count)]
    table = np.array(rows)
    rates = dict(zip((*SUBTYPES, "any"), table.sum(0) / 1500, strict=True))
    several = float((table[:, :5].sum(1) > 1).sum() / table[:, 5].sum())
    allowed = {
        "any": (0.12, 0.175),
        "epidural": (0.003, 0.012),
        "intraparenchymal": (0.035, 0.06),
        "intraventricular": (0.022, 0.045),
        "subarachnoid": (0.035, 0.06),
        "subdural": (0.05, 0.08),
    }
    for name, (low, high) in allowed.items():
        assert low <= rates[name] <= high, (name, rates)
    assert 0.2 <= several <= 0.4
