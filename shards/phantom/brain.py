"""Inside the synthetic skull: grey and white matter, sulci, ventricles, cisterns, falx, vessels.

Hounsfield units of the tissues are those of unenhanced CT: white matter about 28, grey 37, cerebrospinal fluid 4 to 10,
blood in sinuses 45 to 60 (Osborn's Brain, 2nd ed., and common reporting practice).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.phantom.head import Head, Reals, Section, blend, capsule, ellipsoid, floor_distance, fraction


@dataclass(frozen=True, slots=True)
class Brain:
    """One patient's brain: tissue values in HU, sizes as factors of the template's, lengths in mm."""

    white: float
    grey: float
    fluid: float
    vessel: float  # HU of blood in sinuses and arteries
    falx: float
    ventricles: float  # factor of their radii
    asymmetry: float  # left against right ventricle
    sulci: float  # half width of the sulci, mm
    gap: float  # fluid between cortex and inner table, mm
    shift: float  # of the midline, mm, towards the patient's left
    sinus: float  # factor of the venous sinuses' size


def draw_brain(rng: np.random.Generator) -> Brain:
    """Draw a brain; width of sulci, gap and ventricles grow together with age."""
    age = float(rng.beta(2.0, 2.0))
    fluid, grey = float(rng.uniform(3.0, 9.0)), float(rng.normal(37.5, 1.6))
    return Brain(
        white=grey - float(rng.uniform(7.0, 9.5)),
        grey=grey,
        fluid=fluid,
        vessel=float(rng.uniform(46.0, 64.0)),
        falx=float(rng.uniform(46.0, 62.0)),
        ventricles=0.65 + 0.75 * age + float(rng.normal(0, 0.07)),
        asymmetry=float(rng.normal(0.0, 0.06)),
        sulci=0.25 + 1.0 * age + float(rng.uniform(0, 0.25)),
        gap=0.4 + 2.2 * age**1.5,
        shift=float(rng.normal(0.0, 0.6)),
        sinus=float(rng.uniform(0.7, 1.2)),
    )


@dataclass(frozen=True, slots=True)
class Points:
    """The pixels of a section that lie inside the skull, as vectors of float32."""

    at: npt.NDArray[np.int64]  # flat index of the pixel
    x: Reals  # template coordinates, mm; inside, x is measured from the shifted midline
    y: Reals
    z: Reals
    raw_x: Reals  # without the shift
    angle: npt.NDArray[np.int32]
    depth: Reals  # mm from the inner table or the floor, positive inside
    wall: Reals  # mm from the inner table alone
    lobes: Reals  # the patient's slow field
    soft: float

    @property
    def cavity(self) -> Reals:
        """Volume fraction of the cranial cavity."""
        return fraction(-self.depth, self.soft)


@dataclass(frozen=True, slots=True)
class Tissue:
    """A section's brain without hemorrhage, and the spaces that blood can fill."""

    hu: Reals
    sulci: Reals  # volume fraction of fluid outside the ventricles
    wide: Reals  # the same with sulci as wide as blood makes them
    ventricle: Reals  # signed distance to the ventricles, mm


def points_inside(head: Head, brain: Brain, section: Section) -> Points:
    """The pixels inside the skull (and a little of its edge)."""
    at = np.flatnonzero(section.inner.ravel() < 2.0)
    x, y, z, wall = (a.ravel()[at] for a in (section.x, section.y, section.z, section.inner))
    depth = -wall
    if at.size and float(z.min()) < -8.0:
        depth = -np.maximum(wall, floor_distance(x, y, z))
    radius = section.radius.ravel()[at]
    inner = radius - wall
    bend = brain.shift * np.maximum(1.0 - (radius / np.maximum(inner, 1.0)) ** 2, 0.0) if brain.shift else 0.0
    lobes = head.lobes.at(x, y, z)
    return Points(
        at, (x - bend).astype(np.float32), y, z, x, section.angle.ravel()[at], depth, -wall, lobes, section.soft
    )


def ventricles(brain: Brain, p: Points) -> Reals:
    """Signed distance (mm) to the lateral, third and fourth ventricles."""
    size = brain.ventricles
    side = np.abs(p.x) * (1.0 + brain.asymmetry * np.sign(p.x))
    low, high = float(p.z.min()), float(p.z.max())
    parts = (
        ((6.5, -31.0, 8.0), (8.0, -10.0, 17.0), 4.5 * size, 4.0 * size),  # frontal horn
        ((8.0, -10.0, 18.0), (14.0, 20.0, 23.0), 4.2 * size, 5.2 * size),  # body
        ((14.0, 20.0, 22.0), (25.0, 36.0, 10.0), 5.5 * size, 6.2 * size),  # atrium
        ((25.0, 36.0, 9.0), (23.0, 58.0, 5.0), 5.0 * size, 2.5 * size),  # occipital horn
        ((26.0, 34.0, 8.0), (33.0, 2.0, -17.0), 2.6 * size, 1.6 * size),  # temporal horn
    )
    found = np.full_like(p.x, 99.0)
    for a, b, r0, r1 in parts:
        reach = max(r0, r1) + 3.0
        if min(a[2], b[2]) - reach < high and max(a[2], b[2]) + reach > low:
            found = np.minimum(found, capsule(side, p.y, p.z, a, b, r0, r1))
    found = np.maximum(found, 0.7 - np.abs(p.x))  # septum pellucidum
    if low < 16.0 and high > -16.0:
        found = np.minimum(found, ellipsoid(p.x, p.y, p.z, (0.0, 2.0, 0.0), (1.6 + 1.6 * size, 15.0, 11.0)))
    if low < -24.0 and high > -56.0:
        found = np.minimum(found, ellipsoid(p.x, p.y, p.z, (0.0, 31.0, -39.0), (6.5 * size, 5.0, 10.0)))
    return found


def _fissures(brain: Brain, p: Points, folds: Reals, high: float, low: float) -> tuple[Reals, Reals]:
    """Signed distances to the large fissures and cisterns, and to the fissure between the hemispheres alone."""
    x, y, z = p.x, p.y, p.z
    side = np.abs(x)
    ripple = np.clip(folds, -2.0, 2.0)
    callosum = 1.0 - np.sqrt(((y - 4.0) / 42.0) ** 2 + ((z - 2.0) / 29.0) ** 2)  # joined there
    between = np.maximum(side - (0.5 + 0.9 * brain.sulci + 0.25 * p.lobes), np.maximum(callosum * 30.0, -12.0 - z))
    between = np.maximum(between, np.where(y > 0, -6.0 - z, -99.0)).astype(np.float32)
    found = between
    if low < 18.0 and high > -16.0:  # Sylvian fissure: insular cistern, and the cleft from it to the surface
        wide = 0.5 + 1.1 * brain.sulci
        insula = np.abs(side - 39.0 - 0.012 * (y + 4.0) ** 2 - 2.0 * p.lobes - ripple) - wide * (0.7 + 0.3 * ripple)
        insula = np.maximum(insula, np.maximum(np.abs(y + 4.0) - 18.0, np.abs(z - 1.0) - 14.0))
        bent = y + 15.0 - 0.9 * z - 4.0 * p.lobes - 1.8 * ripple
        cleft = np.maximum(np.abs(bent) - wide, np.maximum(38.0 - side, np.abs(z) - 16.0))
        found = np.minimum(found, np.minimum(insula, cleft))
    if low < -2.0:
        stem = ellipsoid(x, y, z, (0.0, 12.0, -26.0), (15.0, 13.0, 40.0)) + 2.0 * p.lobes
        ring = np.maximum(
            np.abs(stem - 1.0 - 0.5 * ripple) - 0.5 - 0.6 * brain.sulci - 0.5 * p.lobes,
            np.maximum(np.abs(z + 18.0) - 12.0, side - 19.0),
        )
        star = ellipsoid(x, y, z, (0.0, -9.0, -18.0), (13.0, 9.0, 8.0))
        arms = np.maximum(
            np.abs(y + 11.0 + 0.12 * side - 1.2 * ripple) - 1.6, np.maximum(np.abs(z + 16.0) - 6.0, side - 36.0)
        )
        plate = ellipsoid(x, y, z, (0.0, 29.0, -9.0), (11.0, 4.5, 7.0))
        for part in (ring, star, arms, plate):
            found = np.minimum(found, part)
    if low < -28.0:
        pons = np.maximum(np.abs(y - 1.0 - 0.10 * (z + 30.0)) - 2.4, np.maximum(side - 14.0, z + 28.0))
        magna = ellipsoid(x, y, z, (0.0, 63.0, -56.0), (18.0, 8.0, 8.0))
        found = np.minimum(found, np.minimum(pons, magna))
    return found, between


def tissue_at(head: Head, brain: Brain, p: Points) -> Tissue:
    """The brain's Hounsfield units at `p`, and its fluid spaces."""
    x, y, z, depth = p.x, p.y, p.z, p.depth
    side = np.abs(x)
    low, high = float(z.min()), float(z.max())
    signed = head.folds.at(p.raw_x, y, z)
    folds = np.abs(signed) * (head.folds.step * 1.75)
    openness = brain.sulci * np.clip(0.75 + 0.55 * p.lobes, 0.05, 2.0)
    taper = np.clip(1.15 - depth / 19.0, 0.0, 1.0)
    below = fraction(z + 14.0 - 0.15 * np.abs(y - 30.0) + 0.28 * side, 1.5) * fraction(16.0 - y + 0.2 * side, 2.0)
    cut_off = folds - openness * taper * (1.0 - 0.6 * below) + np.where(taper > 0, 0.0, 9.0).astype(np.float32)
    gap = brain.gap * np.clip(1.0 + 0.5 * p.lobes, 0.3, 2.0)
    fissure, between = _fissures(brain, p, signed, high, low)
    ventricle = ventricles(brain, p)

    cortex = np.maximum(
        fraction(depth - gap - 3.6, 1.2), fraction(folds - openness * taper - 2.6, 1.2) * (taper > 0.12)
    )
    cortex = np.maximum(cortex, fraction(fissure - 3.4, 1.2))
    nuclei = [
        ellipsoid(side, y, z, (12.5, -17.0, 11.0), (5.5, 10.0, 12.0)),  # caudate
        ellipsoid(side, y, z, (26.0, -4.0, 3.0), (6.0, 16.0, 11.0)),  # putamen and pallidum
        ellipsoid(side, y, z, (10.5, 12.0, 6.0), (8.0, 13.0, 10.0)),  # thalamus
    ]
    deep = np.minimum(np.minimum(nuclei[0], nuclei[1]), nuclei[2]) if low < 26.0 and high > -12.0 else None
    hu = np.full_like(x, brain.white) + 0.5 * p.lobes
    blend(hu, cortex, brain.grey)
    if deep is not None:
        blend(hu, 0.85 * fraction(deep, 2.5), brain.grey)
    if low < 0.0:
        folia = 1.5 * np.sin(1.1 * np.sqrt((y - 18.0) ** 2 + 0.6 * x * x) + 0.8 * z + 1.5 * p.lobes)
        blend(hu, below, brain.grey - 3.0 + folia.astype(np.float32))
        stem = fraction(ellipsoid(x, y, z, (0.0, 12.0, -30.0), (14.0, 12.0, 42.0)), 1.0) * (z < -8.0)
        blend(hu, stem, brain.white + 2.5)
    rim = np.maximum(fraction(p.wall - gap, 0.7), fraction(depth - 0.4 * gap, 0.7))
    surface = np.maximum(rim, fraction(fissure, 0.8))
    sulci = np.maximum(fraction(cut_off, 0.9), surface)
    broad = np.maximum(fraction(fissure - 0.8, 0.8), fraction(p.wall - gap - 0.6))
    wide = np.maximum(fraction(cut_off - 1.3, 0.9), broad)
    blend(hu, sulci, brain.fluid)
    blend(hu, fraction(ventricle, 0.8), brain.fluid)
    _membranes(brain, p, hu, between, low)
    hu += (4.5 * np.exp(-np.maximum(p.wall, 0.0) / 5.0)).astype(np.float32)  # beam hardening under the skull
    return Tissue(hu, sulci, wide, ventricle)


def _membranes(brain: Brain, p: Points, hu: Reals, between: Reals, low: float) -> None:
    """Falx, tentorium, venous sinuses and basal arteries, into `hu`."""
    x, y, z = p.x, p.y, p.z
    side = np.abs(x)
    rim = np.where(y > 0, 42.0, 26.0).astype(np.float32)  # how far the falx reaches in from the vault
    falx = np.maximum(np.abs(p.raw_x) - 0.55, np.maximum(between, p.wall - rim))
    blend(hu, fraction(falx, 0.8), brain.falx)
    size = brain.sinus
    sagittal = np.maximum(np.abs(p.raw_x) + 0.7 * p.wall - 5.5 * size, np.where((y > -20) | (z > 35), -9.0, 9.0))
    sagittal = np.maximum(sagittal, -14.0 - z)
    blend(hu, fraction(sagittal.astype(np.float32), 0.9), brain.vessel)
    if low > 4.0:
        return
    height = z + 8.0 + 0.30 * side + 0.002 * side * side
    tent = np.maximum(np.abs(height) - 0.9, np.maximum(22.0 - y, 13.0 - side - 0.4 * (y - 22.0)))
    blend(hu, 0.65 * fraction(tent.astype(np.float32), 1.0), brain.falx - 2.0)
    across = np.maximum(np.abs(z + 22.0) - 3.0 * size, np.maximum(p.wall - 4.5 * size, 30.0 - y))
    blend(hu, fraction(across.astype(np.float32), 1.0), brain.vessel)
    if low < -8.0:
        basilar = capsule(x, y, z, (1.0, -3.0, -14.0), (-1.0, 2.0, -52.0), 1.9, 1.9)
        middle = capsule(side, y, z, (5.0, -9.0, -15.0), (33.0, -13.0, -11.0), 1.5, 1.2)
        blend(hu, fraction(np.minimum(basilar, middle), 0.8), brain.vessel - 2.0)
