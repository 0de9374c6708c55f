"""A synthetic patient, and its slices in Hounsfield units with masks of the hemorrhages.

`draw_subject` draws everything about a patient once; `render` cuts one slice through it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from hemodist.dataset.labels import LABELS
from shards.phantom import lesions
from shards.phantom.brain import Brain, Points, Tissue, draw_brain, points_inside, tissue_at
from shards.phantom.head import (
    AIR,
    Head,
    Reals,
    Scan,
    Section,
    blend,
    capsule,
    cut,
    draw_head,
    draw_scan,
    ellipsoid,
    fraction,
)
from shards.phantom.lesions import MIN_AREA, Bleed, Mimics
from shards.phantom.patients import Patient, generator

SUBTYPES = LABELS[1:]
"""The five subtypes, in the order of `hemodist.dataset.manifest.LABELS`."""

_GEOMETRY, _TISSUE, _LESIONS, _MIMICS, _NOISE = 1, 2, 3, 4, 5
"""Streams of `generator`: each part of a patient has its own, so one can change without the others."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One patient: head, brain, hemorrhages, and how the scanner sees them."""

    patient: Patient
    seed: int
    scan: Scan
    head: Head
    brain: Brain
    bleeds: tuple[Bleed, ...]
    mimics: Mimics
    noise: float  # standard deviation in the middle of the head, HU
    blur: float  # standard deviation of the point spread, pixels of 512
    offset: float  # calibration error, HU
    cupping: float  # HU at the skull against the centre


def draw_subject(patient: Patient, seed: int, size: int) -> Subject:
    """Draw everything about a patient from generators keyed by (seed, patient)."""
    rng = generator(seed, patient.number, _GEOMETRY)
    scan = draw_scan(rng, patient.count, size)
    head = draw_head(rng, scan.tilt)
    rng = generator(seed, patient.number, _TISSUE)
    brain = draw_brain(rng)
    noise, blur, offset, cupping = (float(rng.uniform(*r)) for r in ((3.0, 6.2), (0.6, 0.95), (-2.5, 2.5), (0.0, 5.0)))
    bleeds = lesions.draw_bleeds(generator(seed, patient.number, _LESIONS), patient.lesions, float(head.scale[2]))
    mimics = lesions.draw_mimics(generator(seed, patient.number, _MIMICS))
    brain = lesions.displaced(brain, bleeds)
    return Subject(patient, seed, scan, head, brain, bleeds, mimics, noise, blur, offset, cupping)


def _opened(subject: Subject, k: int) -> tuple[Section, Points, Tissue, dict[str, Reals]]:
    """Slice `k` with the brain and what has bled into it."""
    section = cut(subject.head, subject.scan, k)
    points = points_inside(subject.head, subject.brain, section)
    if not points.at.size:
        empty = np.zeros(0, np.float32)
        return section, points, Tissue(empty, empty, empty, empty), {}
    tissue = tissue_at(subject.head, subject.brain, points)
    lesions.mimic_into(subject.mimics, points, tissue.hu)
    bled = lesions.bleed_into(subject.bleeds, subject.head, points, tissue)
    return section, points, tissue, bled


def _masks(subject: Subject, points: Points, bled: dict[str, Reals]) -> npt.NDArray[np.bool_]:
    """Masks of the five subtypes, bool (5, size, size); an area below `MIN_AREA` counts as none."""
    scan = subject.scan
    masks = np.zeros((len(SUBTYPES), scan.size * scan.size), bool)
    for i, subtype in enumerate(SUBTYPES):
        if subtype in bled:
            # Pixels that share the skull's point spread hold bone's HU and belong to no hemorrhage.
            within = points.at[(bled[subtype] > 0.5) & (points.depth > points.soft + 1.0)]
            if within.size * scan.spacing**2 >= MIN_AREA:
                masks[i, within] = True
    return masks.reshape(-1, scan.size, scan.size)


def masks_of(subject: Subject, k: int) -> npt.NDArray[np.bool_]:
    """Hemorrhage masks of slice `k`, bool (5, size, size) in the order of `SUBTYPES`, without rendering the rest."""
    if not subject.bleeds:
        return np.zeros((len(SUBTYPES), subject.scan.size, subject.scan.size), bool)
    _, points, _, bled = _opened(subject, k)
    return _masks(subject, points, bled)


def render(subject: Subject, k: int) -> tuple[Reals, npt.NDArray[np.bool_]]:
    """Slice `k`: HU, float32 (size, size), and hemorrhage masks, bool (5, size, size) in the order of `SUBTYPES`."""
    section, points, tissue, bled = _opened(subject, k)
    hu = _shell(subject, section)
    if points.at.size:
        flat = hu.ravel()
        around = flat[points.at]
        if float(points.z.min()) < -10.0:
            _base(subject, points, around)
        blend(around, points.cavity, tissue.hu + subject.cupping * (1.0 - np.clip(points.wall / 45.0, 0.0, 1.0)))
        flat[points.at] = around
    _finish(subject, section, hu, k)
    return hu, _masks(subject, points, bled)


def _shell(subject: Subject, section: Section) -> Reals:
    """Air, headrest, scalp and skull; the inside is left as bone."""
    head, soft = subject.head, section.soft
    hu = np.full(section.x.shape, AIR, np.float32)
    _headrest(head, section, hu)
    outer = section.outer
    swollen = lesions.swelling(subject.mimics, section)
    skin = section.skin if swollen is None else section.skin - swollen
    blend(hu, fraction(skin, max(0.8, 0.6 * soft)), head.muscle)
    under = fraction(skin + 2.2) * fraction(-2.2 - head.fat - skin) * fraction(1.0 - outer)  # subcutaneous fat
    blend(hu, under, -90.0)
    if swollen is not None:
        blend(hu, fraction(1.5 - swollen) * fraction(skin + 2.5) * fraction(1.0 - outer), subject.mimics.scalp_hu)
    side = np.abs(section.x)
    temporal = (
        fraction(outer - 6.5) * fraction((np.abs(section.y + 22.0) - 20.0) / 2) * fraction((section.z - 22.0) / 4)
    )
    blend(hu, temporal * fraction((30.0 - side) / 4) * fraction(skin + 2.5), 56.0)
    thick = np.maximum(section.inner - section.outer, 3.0)
    within = np.clip(section.inner / thick, -1.0, 2.0)
    tables = np.clip(np.abs(2.0 * within - 1.0) * 2.2 - 0.9, 0.0, 1.0)
    blend(hu, fraction(outer, soft), head.marrow + (head.table - head.marrow) * tables)
    return hu


def _headrest(head: Head, section: Section, hu: Reals) -> None:
    """A plastic shell that cradles the head from below, and foam in it."""
    distance = section.skin - head.headrest
    below = fraction(18.0 - section.y, 2.0)
    blend(hu, fraction(distance) * fraction(-section.skin) * below, -960.0)
    blend(hu, fraction(np.abs(distance) - 1.4) * below, 40.0)


def _base(subject: Subject, p: Points, hu: Reals) -> None:
    """Bone, sinuses, orbits and muscle below the cranial cavity, into `hu` at the points `p`."""
    x, y, z, lobes = p.raw_x, p.y, p.z, p.lobes
    side = np.abs(x)
    under = np.maximum(-p.depth, 0.0)
    shell = fraction(p.wall - 3.5, 1.5)  # the lateral wall goes on below the floor
    fine = subject.head.folds.at(x, y, z)
    soft = 48.0 + 6.0 * lobes
    soft = np.where(np.abs(fine) < 0.18 + 0.1 * lobes, -70.0, soft).astype(np.float32)
    spongy = (220.0 + 260.0 * fine + 120.0 * lobes).astype(np.float32)
    filled = soft.copy()
    core = fraction((ellipsoid(side, y, z, (0.0, 0.0, -46.0), (20.0, 30.0, 14.0))), 3.0)
    blend(filled, core, spongy)
    blend(filled, fraction(under - 2.2, 1.2), 560.0 + 250.0 * lobes)
    blend(filled, shell, 800.0)
    petrous = capsule(side, y, z, (13.0, 2.0, -38.0), (60.0, 27.0, -34.0), 7.5, 11.0)
    blend(filled, fraction(petrous), 950.0 + 250.0 * fine)
    mastoid = ellipsoid(side, y, z, (56.0, 27.0, -44.0), (12.0, 15.0, 16.0))
    blend(filled, fraction(mastoid), np.where(fine > 0.25, 550.0, -650.0).astype(np.float32))
    orbit = ellipsoid(side, y, z, (29.0, -55.0, -37.0), (18.0, 24.0, 15.5))
    blend(filled, fraction(orbit - 2.2), 650.0)
    blend(filled, fraction(orbit), -85.0)
    eye = ellipsoid(side, y, z, (32.0, -64.0, -37.0), (12.0, 12.0, 12.0))
    nerve = capsule(side, y, z, (31.0, -52.0, -37.0), (15.0, -26.0, -33.0), 2.2, 2.0)
    muscle = np.minimum(
        capsule(side, y, z, (44.0, -58.0, -37.0), (20.0, -30.0, -35.0), 2.0, 1.6),
        capsule(side, y, z, (20.0, -58.0, -37.0), (14.0, -30.0, -35.0), 2.0, 1.6),
    )
    blend(filled, fraction(np.minimum(nerve, muscle)), 42.0)
    blend(filled, fraction(np.abs(eye) - 0.8), 55.0)
    blend(filled, fraction(eye + 0.8), 16.0)
    blend(filled, fraction(ellipsoid(side, y, z, (32.0, -74.0, -37.0), (4.5, 2.2, 4.5))), 85.0)
    ethmoid = np.maximum(np.maximum(side - 10.5, np.abs(y + 55.0) - 20.0), np.abs(z + 42.0) - 18.0)
    blend(filled, fraction(ethmoid), np.where(np.abs(fine) < 0.2, 250.0, -880.0).astype(np.float32))
    sphenoid = np.maximum(ellipsoid(side, y, z, (0.0, -20.0, -36.0), (15.0, 12.0, 11.0)), 0.7 - np.abs(x - 2.0))
    maxillary = ellipsoid(side, y, z, (27.0, -52.0, -64.0), (14.0, 17.0, 12.5))
    air = np.minimum(sphenoid, maxillary)
    blend(filled, fraction(air - 1.5), 500.0)
    blend(filled, fraction(air), -950.0)
    # Petrous bones belong to the base wherever they stand, also above the floor.
    below = np.maximum(fraction(-under + 0.5), fraction(petrous + 1.5))
    blend(hu, below * fraction(-p.wall), filled)
    p.depth[:] = np.where(petrous < 2.0, np.minimum(p.depth, petrous), p.depth)


def _finish(subject: Subject, section: Section, hu: Reals, k: int) -> None:
    """Streaks, noise, point spread and calibration error, into `hu`; noise goes through the same kernel as the head."""
    scan = subject.scan
    middle = float(section.z[scan.size // 2, scan.size // 2])
    if middle < -26.0:  # the dark bar between the petrous bones, Hounsfield's, in fine bands
        strength = 9.0 * float(np.exp(-(((middle + 40.0) / 9.0) ** 2)))
        band = np.exp(-(((section.y - 14.0) / 8.0) ** 2)) * (np.abs(section.x) < 45.0)
        hu -= (strength * band * (1.0 + 0.6 * np.cos(0.9 * section.y + 0.1 * section.x))).astype(np.float32)
    added = lesions.streaks(subject.mimics, section.x, section.y, section.z)
    if added is not None:
        hu += added * (section.outer < 0.0)
    sigma = subject.blur * scan.size / 512.0
    kernel = np.exp(-0.5 * (np.arange(-2, 3) / sigma) ** 2)
    kernel /= kernel.sum()
    # A separable kernel shrinks the standard deviation of white noise by the sum of its squares.
    gain = subject.noise * (0.75 if middle > 55.0 else 1.0) / float((kernel**2).sum())
    rng = generator(subject.seed, subject.patient.number, _NOISE, k)
    hu += rng.standard_normal(hu.shape, dtype=np.float32) * np.float32(gain)
    along = ndimage.correlate1d(hu, kernel, axis=0, mode="nearest")
    ndimage.correlate1d(along, kernel, axis=1, mode="nearest", output=hu)
    hu += np.float32(subject.offset)
