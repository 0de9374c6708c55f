"""Who is in the synthetic data set: patients, their slices, and which hemorrhages each of them has.

The plan is drawn for the whole data set at once, so that the rates come near RSNA's even with forty patients. Scenarios
are dealt by systematic sampling (one random start, equal steps). Then the extents of all hemorrhages of a subtype are
scaled by one factor, to meet that subtype's share of slices. What belongs to one patient alone is drawn later, from a
generator keyed by (seed, patient); see `generator`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

MIN_SLICES, MAX_SLICES, MEAN_SLICES = 20, 60, 37
"""Slices a patient has. Fewer than `MIN_SLICES` only where the whole data set has fewer."""

LESION_PATIENTS = 0.47
"""Share of patients with a hemorrhage in some of their slices (RSNA's training set: about 0.4; a little more
gives a small data set more of each kind to learn from)."""

COVERAGE_MM = 146.0
"""What a scan covers along the head on average; turns an extent in mm into a number of slices."""

LABELLED = {
    "epidural": 1.06,
    "intraparenchymal": 1.10,
    "intraventricular": 0.82,
    "subarachnoid": 1.0,
    "subdural": 1.15,
}
"""Slices with label 1 for each slice that a hemorrhage's extent would fill at `COVERAGE_MM`, as measured over seeds 0
to 7: lobulated outlines and oblique cuts reach beyond the extent, ventricles end before it."""

TARGET_SHARE = {
    "epidural": 0.0065,
    "intraparenchymal": 0.048,
    "intraventricular": 0.035,
    "subarachnoid": 0.047,
    "subdural": 0.063,
}
"""Share of all slices with each subtype. RSNA's stage 1 (Flanders et al., Radiology: AI 2020, 2:e190211), but for
epidural, which is raised from 0.41 % so that a data set of 1,500 slices has it at all."""

EXTENT_MM = {
    "epidural": (24.0, 62.0),
    "intraparenchymal": (14.0, 50.0),
    "intraventricular": (16.0, 52.0),
    "subarachnoid": (22.0, 84.0),
    "subdural": (28.0, 100.0),
}
"""Smallest and largest extent along the head of a hemorrhage of each subtype."""

Scenario = tuple[float, tuple[tuple[str, str], ...]]
SCENARIOS: tuple[Scenario, ...] = (
    (2.4, (("subdural", "convexity"),)),
    (1.0, (("epidural", "convexity"),)),
    (1.4, (("subdural", "convexity"), ("subarachnoid", "convexity"))),
    (1.0, (("subdural", "convexity"), ("subarachnoid", "convexity"), ("intraparenchymal", "contusion"))),
    (0.6, (("subdural", "convexity"), ("intraparenchymal", "contusion"))),
    (0.7, (("subarachnoid", "basal"),)),
    (2.0, (("subarachnoid", "basal"), ("intraventricular", "level"))),
    (1.2, (("intraparenchymal", "lobar"),)),
    (1.2, (("intraparenchymal", "deep"),)),
    (3.3, (("intraparenchymal", "deep"), ("intraventricular", "cast"))),
    (0.4, (("intraventricular", "level"),)),
)
"""Relative frequency and hemorrhages (subtype, site) of the scenarios; neighbours in the list are dealt in turn."""


@dataclass(frozen=True, slots=True)
class Lesion:
    """One hemorrhage: subtype, site, extent along the head in mm, and its number among the patient's."""

    subtype: str
    site: str
    extent: float
    number: int


@dataclass(frozen=True, slots=True)
class Patient:
    """One patient of the plan: a number, `count` slices from the data set's slice `first` on, and hemorrhages."""

    number: int
    first: int
    count: int
    scanner: int
    monochrome1: bool
    lesions: tuple[Lesion, ...]


def generator(seed: int, number: int, stream: int, counter: int = 0) -> np.random.Generator:
    """A counter-based generator of its own for each (seed, patient, stream, counter).

    Args:
        seed: of the data set, 0 to 2**63 - 1.
        number: of the patient; -1 for the plan of the whole data set.
        stream: what is drawn, 0 to 255.
        counter: 0 to 2**63 - 1, for example the slice. It takes the highest word of Philox's counter, so that streams
            that differ in it never meet.
    """
    return np.random.Generator(np.random.Philox(key=[seed, (number + 1) << 8 | stream], counter=[0, 0, 0, counter]))


def draw_plan(seed: int, slices: int, *, scanners: int, faulty: tuple[int, ...]) -> tuple[Patient, ...]:
    """Deal `slices` slices to patients and hemorrhages to some of them.

    Args:
        seed: of the data set.
        slices: in total, at least 1.
        scanners: number of scanner profiles, used about equally often.
        faulty: profiles that never store MONOCHROME1, because two faults in one file have no right order of repair.

    Returns:
        Patients with consecutive numbers and slices; the same for the same arguments, always.
    """
    rng = generator(seed, -1, 0)
    counts = _slice_counts(rng, slices)
    patients = len(counts)
    scanner = rng.permutation(np.arange(patients) % scanners)
    plain = np.flatnonzero(~np.isin(scanner, faulty))
    inverted = set(rng.permutation(plain)[: max(1, round(0.03 * patients)) if patients >= 6 else 0].tolist())
    chosen = rng.permutation(patients)[: max(1, round(LESION_PATIENTS * patients))]
    hands = _deal(rng, len(chosen))
    lesions = _scaled(rng, {int(p): hand for p, hand in zip(chosen, hands, strict=True)}, counts, slices)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return tuple(
        Patient(p, int(first[p]), int(counts[p]), int(scanner[p]), p in inverted, lesions.get(p, ()))
        for p in range(patients)
    )


def _slice_counts(rng: np.random.Generator, slices: int) -> npt.NDArray[np.int64]:
    """Slices of each patient, int64, 20 to 60 each (one patient with fewer where there are fewer in all)."""
    patients = max(1, round(slices / MEAN_SLICES))
    counts = np.clip(np.rint(rng.normal(MEAN_SLICES, 8.0, patients)), MIN_SLICES, MAX_SLICES).astype(np.int64)
    excess = int(counts.sum()) - slices
    for p in range(patients - 1, -1, -1):  # the last patients are cut or lengthened until the total is right
        lowest = MIN_SLICES if patients > 1 else 1
        kept = int(np.clip(counts[p] - excess, lowest, MAX_SLICES))
        excess -= int(counts[p]) - kept
        counts[p] = kept
    return counts


def _deal(rng: np.random.Generator, hands: int) -> list[tuple[tuple[str, str], ...]]:
    """Scenarios for `hands` patients by systematic sampling; six or more patients always include an epidural."""
    weights = np.array([weight for weight, _ in SCENARIOS])
    edges = np.cumsum(weights) / weights.sum()
    picks = np.searchsorted(edges, (np.arange(hands) + rng.uniform()) / hands, side="right")
    picks = np.minimum(picks, len(SCENARIOS) - 1)
    has_epidural = any(SCENARIOS[int(i)][1][0][0] == "epidural" for i in picks)
    if hands >= 6 and not has_epidural:
        picks[0] = 1
    return [SCENARIOS[int(i)][1] for i in rng.permutation(picks)]


def _scaled(
    rng: np.random.Generator,
    hands: dict[int, tuple[tuple[str, str], ...]],
    counts: npt.NDArray[np.int64],
    slices: int,
) -> dict[int, tuple[Lesion, ...]]:
    """Extents drawn within `EXTENT_MM`, then scaled by subtype to meet `TARGET_SHARE` as far as limits allow."""
    drawn: dict[int, list[Lesion]] = {}
    for patient in sorted(hands):
        drawn[patient] = []
        for number, (subtype, site) in enumerate(hands[patient]):
            low, high = EXTENT_MM[subtype]
            drawn[patient].append(Lesion(subtype, site, float(rng.uniform(low, high)), number))
    for subtype, share in TARGET_SHARE.items():
        low, high = EXTENT_MM[subtype]
        for _ in range(6):  # clipping takes part of each correction back
            met = sum(
                lesion.extent / COVERAGE_MM * LABELLED[subtype] * int(counts[p])
                for p, found in drawn.items()
                for lesion in found
                if lesion.subtype == subtype
            )
            if met == 0:
                break
            factor = share * slices / met
            for p, found in drawn.items():
                drawn[p] = [
                    replace(x, extent=float(np.clip(x.extent * factor, low, high))) if x.subtype == subtype else x
                    for x in found
                ]
    return {p: tuple(found) for p, found in drawn.items()}


def identifiers(seed: int, slices: int, size: int, numbers: npt.NDArray[np.uint64], *, digits: int) -> list[str]:
    """RSNA's kind of identifier, `ID_` and `digits` hexadecimal digits, one for each number and never one twice.

    A keyed bijection of [0, 16**digits), so identifiers cannot collide, and another seed, number of slices or size
    gives other ones.

    Args:
        seed: of the data set.
        slices: in the data set.
        size: rows and columns of a slice.
        numbers: uint64, of slices or patients, below 16**digits.
        digits: 8 to 10.
    """
    key = hashlib.blake2b(f"{seed}/{slices}/{size}/{digits}".encode(), digest_size=32).digest()
    words = np.frombuffer(key, "<u8")
    bits = np.uint64(4 * digits)
    mask = (np.uint64(1) << bits) - np.uint64(1)
    mixed = numbers.astype(np.uint64)
    for word in words:  # an odd factor, an offset and a xor-shift are each bijective modulo a power of two
        mixed = (mixed * (word | np.uint64(1)) + (word >> np.uint64(7))) & mask
        mixed ^= mixed >> (bits // np.uint64(2))
    return [f"ID_{int(value):0{digits}x}" for value in mixed]
