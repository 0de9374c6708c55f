"""Hemorrhages and their mimics in the synthetic head.

Every hemorrhage is a volume fraction at the points inside the skull. Its form depends on the subtype: a lens
(epidural), a crescent (subdural), along the sulci (subarachnoid), a level in the ventricles (intraventricular), or
round with a rim of edema (intraparenchymal). Its mask is where the fraction is above one half. Its label in a slice is
1 where the mask covers at least `MIN_AREA`; a reader would not report less.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from shards.phantom.brain import Brain, Points, Tissue
from shards.phantom.head import ANGLES, Head, Reals, Section, blend, capsule, ellipsoid, fraction
from shards.phantom.patients import Lesion

MIN_AREA = 30.0
"""Area in mm2 of a slice that a hemorrhage's mask covers at least where the label is 1 (about 140 pixels of 512**2)."""


@dataclass(frozen=True, slots=True)
class Bleed:
    """One hemorrhage's place and form; lengths mm, template coordinates."""

    subtype: str
    site: str
    hu: float
    side: float  # +1 the patient's left, -1 the right
    center: tuple[float, float, float]
    reach: float  # half its extent along z
    radii: tuple[float, float]  # in the slice: thickness or half axes, as the form has it
    span: float = 0.0  # half its arc, radians
    edema: float = 0.0


def draw_bleeds(rng: np.random.Generator, lesions: tuple[Lesion, ...], scale: float) -> tuple[Bleed, ...]:
    """Draw the places and forms of a patient's hemorrhages.

    Args:
        rng: the patient's generator of hemorrhages.
        lesions: from the plan.
        scale: of the head along z, to turn extents in mm into the template's.
    """
    side = float(rng.choice([-1.0, 1.0]))
    bleeds = []
    for lesion in lesions:
        faint = rng.uniform() < 0.09
        hu = float(rng.uniform(53.0, 57.0) if faint else rng.uniform(61.0, 74.0))
        bleeds.append(_DRAW[lesion.subtype](rng, lesion, hu, side, lesion.extent / 2 / scale))
    return tuple(bleeds)


def _draw_epidural(rng: np.random.Generator, lesion: Lesion, hu: float, side: float, reach: float) -> Bleed:
    phi = float(rng.uniform(-0.9, 0.7))
    center = (side * 70.0 * np.cos(phi), 84.0 * np.sin(phi), float(rng.uniform(8.0, 34.0)))
    thick = float(rng.uniform(13.0, 22.0))
    return Bleed("epidural", lesion.site, hu, side, center, reach, (thick, reach * float(rng.uniform(0.9, 1.2))))


def _draw_subdural(rng: np.random.Generator, lesion: Lesion, hu: float, side: float, reach: float) -> Bleed:
    phi = float(rng.uniform(-0.35, 0.45))
    thick = float(rng.uniform(7.0, 15.0)) if rng.uniform() < 0.88 else float(rng.uniform(3.0, 5.0))
    z = float(rng.uniform(22.0, 38.0))
    return Bleed("subdural", lesion.site, hu, side, (0.0, phi, z), reach, (thick, 0.0), float(rng.uniform(0.8, 1.2)))


def _draw_subarachnoid(rng: np.random.Generator, lesion: Lesion, hu: float, side: float, reach: float) -> Bleed:
    hu = max(hu, 60.0) + 5.0  # thin layers lose contrast to partial volume
    if lesion.site == "basal":
        center = (0.0, float(rng.uniform(-12.0, 2.0)), float(rng.uniform(-12.0, -2.0)) + max(0.0, reach - 22.0))
        radii = (float(rng.uniform(50.0, 74.0)), float(rng.uniform(42.0, 66.0)))
    else:
        phi = float(rng.uniform(-0.8, 0.9))
        center = (side * 56.0 * np.cos(phi), 62.0 * np.sin(phi), float(rng.uniform(20.0, 46.0)))
        radii = (float(rng.uniform(26.0, 42.0)), float(rng.uniform(28.0, 44.0)))
    return Bleed("subarachnoid", lesion.site, hu, side, center, reach, radii)


def _draw_intraventricular(rng: np.random.Generator, lesion: Lesion, hu: float, side: float, reach: float) -> Bleed:
    """`radii[0]` is the level above which (to the front) the ventricles stay clear; a cast fills one of them."""
    level = float(rng.uniform(-40.0, 5.0)) if lesion.site == "cast" else float(rng.uniform(12.0, 30.0))
    center = (0.0, 0.0, float(rng.uniform(8.0, 13.0)))
    return Bleed("intraventricular", lesion.site, hu, side, center, reach, (level, float(rng.uniform(0, 1))))


def _draw_intraparenchymal(rng: np.random.Generator, lesion: Lesion, hu: float, side: float, reach: float) -> Bleed:
    if lesion.site == "deep":
        center = (side * float(rng.uniform(18.0, 29.0)), float(rng.uniform(-8.0, 14.0)), float(rng.uniform(4.0, 14.0)))
    elif lesion.site == "contusion":  # frontal or temporal pole
        front = rng.uniform() < 0.6
        center = (side * 24.0, -54.0, 6.0) if front else (side * 46.0, -16.0, -10.0)
    else:
        phi = float(rng.uniform(-1.1, 1.1))
        center = (side * 40.0 * np.cos(phi), 52.0 * np.sin(phi), float(rng.uniform(14.0, 44.0)))
    within = min(reach, 19.0)
    radii = (within * float(rng.uniform(0.75, 1.0)), within * float(rng.uniform(0.9, 1.2)))
    edema = float(rng.uniform(3.0, 8.0))
    return Bleed("intraparenchymal", lesion.site, hu, side, center, reach, radii, edema=edema)


_DRAW = {
    "epidural": _draw_epidural,
    "subdural": _draw_subdural,
    "subarachnoid": _draw_subarachnoid,
    "intraventricular": _draw_intraventricular,
    "intraparenchymal": _draw_intraparenchymal,
}


def displaced(brain: Brain, bleeds: tuple[Bleed, ...]) -> Brain:
    """The brain as the hemorrhages push it: midline away from the thick ones, sulci narrower."""
    push = sum(-b.side * 0.28 * b.radii[0] for b in bleeds if b.subtype in ("epidural", "subdural"))
    push += sum(-b.side * 0.10 * b.radii[0] for b in bleeds if b.subtype == "intraparenchymal")
    return replace(brain, shift=brain.shift + float(np.clip(push, -7.0, 7.0)))


def spread(bleed: Bleed, head: Head, p: Points, t: Tissue) -> Reals | None:
    """Volume fraction of the hemorrhage at each point, float32; None where the slice lies outside its extent."""
    if (
        float(p.z.min()) > bleed.center[2] + bleed.reach + 24.0
        or float(p.z.max()) < bleed.center[2] - bleed.reach - 24.0
    ):
        return None
    x, y, z = p.raw_x, p.y, p.z
    up = (z - bleed.center[2]) / bleed.reach
    dome = np.sqrt(np.clip(1.0 - up * up, 0.0, 1.0))
    match bleed.subtype:
        case "epidural":
            found = _lens(bleed, head, p)
        case "subdural":
            phi = (p.angle.astype(np.float32) / ANGLES - 0.5) * np.float32(2 * np.pi)
            from_side = np.abs(np.arctan2(np.sin(phi), bleed.side * np.cos(phi)) - bleed.center[1]) / bleed.span
            arc = np.sqrt(np.clip(1.0 - from_side**3, 0.0, 1.0))
            thick = bleed.radii[0] * arc * np.sqrt(dome) * np.clip(1.0 + 0.15 * p.lobes, 0.6, 1.4)
            on_side = fraction(1.5 - bleed.side * x, 1.0)
            found = fraction(p.wall - thick, 0.9) * on_side * (thick > 1.0)
        case "subarachnoid":
            q = ((x - bleed.center[0]) / bleed.radii[0]) ** 2 + ((y - bleed.center[1]) / bleed.radii[1]) ** 2 + up**2
            region = np.clip(4.0 * (1.08 + 0.10 * p.lobes - np.sqrt(q)), 0.0, 1.0)
            found = np.minimum(t.wide, 1.0) * region * fraction(1.0 - t.ventricle, 0.8)
        case "intraventricular":
            far = bleed.side * p.x < 0
            level = np.where(
                far & (bleed.site == "cast"), bleed.radii[0] + 30.0 + 20.0 * bleed.radii[1], bleed.radii[0]
            )
            filled = fraction((level + 1.5 * p.lobes - y).astype(np.float32), 1.0)
            found = fraction(t.ventricle - 0.3, 0.8) * filled * fraction((np.abs(up) - 1.0) * bleed.reach, 1.5)
        case _:
            found = fraction(_core(bleed, p), 1.2)
    return (found * p.cavity).astype(np.float32)


def _lens(bleed: Bleed, head: Head, p: Points) -> Reals:
    """A ball that cuts the skull's inside: biconvex, `radii[0]` thick and `radii[1]` in half length."""
    thick, half = bleed.radii
    ball = (half * half + thick * thick) / (2 * thick)
    length = float(np.hypot(bleed.center[0], bleed.center[1]))
    index = int((np.arctan2(bleed.center[1], bleed.center[0]) / (2 * np.pi) + 0.5) * ANGLES) % ANGLES
    wall = float(head.inner[index]) * 0.97
    out = (wall + max(ball - 1.25 * thick, -thick)) / length
    squeeze = half / bleed.reach
    center = (bleed.center[0] * out, bleed.center[1] * out)
    distance = np.sqrt((p.raw_x - center[0]) ** 2 + (p.y - center[1]) ** 2 + ((p.z - bleed.center[2]) * squeeze) ** 2)
    return fraction((distance - ball).astype(np.float32), 1.0)


def _core(bleed: Bleed, p: Points) -> Reals:
    """Signed distance to a lobulated ellipsoid."""
    radii = (bleed.radii[0], bleed.radii[1], bleed.reach)
    smooth = ellipsoid(p.raw_x, p.y, p.z, bleed.center, radii)
    return (smooth - 0.28 * min(bleed.radii) * p.lobes).astype(np.float32)


def bleed_into(bleeds: tuple[Bleed, ...], head: Head, p: Points, t: Tissue) -> dict[str, Reals]:
    """Paint the hemorrhages into `t.hu` and return the volume fraction of each subtype that the slice may have."""
    found: dict[str, Reals] = {}
    for bleed in bleeds:
        share = spread(bleed, head, p, t)
        if share is None:
            continue
        if bleed.edema:
            rim = fraction(_core(bleed, p) - bleed.edema, 2.0) * p.cavity * fraction(1.0 - t.ventricle)
            blend(t.hu, 0.9 * rim, 20.0)
        blend(t.hu, share, bleed.hu + 1.5 * p.lobes)
        known = found.get(bleed.subtype)
        found[bleed.subtype] = share if known is None else np.maximum(known, share)
    return found


@dataclass(frozen=True, slots=True)
class Mimics:
    """What looks like blood and is none. Sizes are in mm, 0 where the patient does not have it; values are in HU."""

    choroid: float
    choroid_hu: float
    pineal: float
    pineal_hu: float
    ganglia: float
    ganglia_hu: float
    falx: tuple[float, float, float]  # y, z, half length of a calcified plaque
    artery: float  # side of a dense middle cerebral artery, 0 for none
    streak: tuple[float, float, float, float]  # x, y, z of a metal's centre, amplitude in HU
    scalp: tuple[float, float, float, float]  # hematoma of the scalp: thickness, angle, half arc (radians), z
    scalp_hu: float


def draw_mimics(rng: np.random.Generator) -> Mimics:
    """Draw a patient's calcifications, dense vessel and metal."""

    def sometimes(chance: float, low: float, high: float) -> float:
        value = float(rng.uniform(low, high))
        return value if rng.uniform() < chance else 0.0

    return Mimics(
        choroid=sometimes(0.65, 1.3, 3.6),
        choroid_hu=float(rng.uniform(80, 200)),
        pineal=sometimes(0.6, 1.5, 3.5),
        pineal_hu=float(rng.uniform(90, 220)),
        ganglia=sometimes(0.35, 2.0, 5.0),
        ganglia_hu=float(rng.uniform(52, 130)),
        falx=(float(rng.uniform(-60, -20)), float(rng.uniform(35, 60)), sometimes(0.35, 4.0, 12.0)),
        artery=float(rng.choice([-1.0, 1.0])) * sometimes(0.15, 1.0, 1.01),
        streak=(
            float(rng.uniform(-40, 40)),
            float(rng.uniform(-60, 20)),
            float(rng.uniform(-50, 20)),
            sometimes(0.14, 25.0, 60.0),
        ),
        scalp=(
            sometimes(0.45, 4.0, 11.0),
            float(rng.uniform(-np.pi, np.pi)),
            float(rng.uniform(0.4, 0.9)),
            float(rng.uniform(-10.0, 45.0)),
        ),
        scalp_hu=float(rng.uniform(54.0, 68.0)),
    )


def mimic_into(mimics: Mimics, p: Points, hu: Reals) -> None:
    """Paint the mimics into `hu`."""
    low, high = float(p.z.min()), float(p.z.max())
    x, y, z = p.x, p.y, p.z
    side = np.abs(x)
    if low < 20.0 and high > -6.0:
        parts = (
            (side, (22.0, 34.0, 12.0), (1.0, 1.4, 1.2), mimics.choroid, mimics.choroid_hu),
            (x, (0.5, 25.0, 1.0), (1.0, 1.0, 1.0), mimics.pineal, mimics.pineal_hu),
            (side, (20.0, -3.0, 2.0), (0.7, 1.6, 1.2), mimics.ganglia, mimics.ganglia_hu),
        )
        for across, center, form, radius, value in parts:
            if radius:
                radii = (form[0] * radius, form[1] * radius, form[2] * radius)
                blend(hu, fraction(ellipsoid(across, y, z, center, radii) + 0.5 * p.lobes, 1.0), value)
    if mimics.falx[2]:
        plaque = ellipsoid(p.raw_x, y, z, (0.0, mimics.falx[0], mimics.falx[1]), (1.8, mimics.falx[2], 5.0))
        blend(hu, fraction(plaque, 0.8), 150.0)
    if mimics.artery and low < -4.0:
        dense = capsule(mimics.artery * x, y, z, (5.0, -9.0, -15.0), (35.0, -13.0, -10.0), 2.0, 1.5)
        blend(hu, fraction(dense), 66.0)


def swelling(mimics: Mimics, section: Section) -> Reals | None:
    """How far a hematoma lifts the scalp at each pixel, mm; None where there is none."""
    thick, phi, span, height = mimics.scalp
    middle = float(section.z[section.z.shape[0] // 2, section.z.shape[1] // 2])
    if not thick or abs(middle - height) > 45.0:
        return None
    turned = section.angle.astype(np.float32) * np.float32(2 * np.pi / ANGLES) - np.float32(np.pi + phi)
    away = np.abs(turned - np.float32(2 * np.pi) * np.rint(turned / np.float32(2 * np.pi))) / np.float32(span)
    up = (section.z - height) / 35.0
    lifted: Reals = thick * np.clip(1.0 - away**2, 0.0, 1.0) * np.sqrt(np.clip(1.0 - up * up, 0.0, 1.0))
    return lifted


def streaks(mimics: Mimics, x: Reals, y: Reals, z: Reals) -> Reals | None:
    """HU that metal adds to pixels in its slices: rays, bright and dark; None in slices without."""
    cx, cy, cz, amplitude = mimics.streak
    off = abs(float(z[z.shape[0] // 2, z.shape[1] // 2]) - cz)
    if not amplitude or off > 7.0:
        return None
    dx, dy = x - cx, y - cy
    angle, distance = np.arctan2(dy, dx), np.sqrt(dx * dx + dy * dy) + 4.0
    rays = np.cos(14.0 * angle + 1.0) * np.cos(5.0 * angle) + 0.5 * np.cos(31.0 * angle)
    added: Reals = (amplitude * (1.0 - off / 9.0) * rays * np.minimum(18.0 / distance, 1.0)).astype(np.float32)
    metal = fraction(distance - 6.0)
    return added + 2600.0 * metal
