"""The synthetic head's outer geometry: pose, skull, scalp, skull base and face, headrest.

Lengths are mm. World axes are DICOM's patient axes (PS3.3 C.7.6.2.1.1): x to the patient's left, y to the back, z to
the crown. *Template* coordinates are those of one average head, with the origin at the third ventricle and the same
directions. A patient's pose and scale lead from one to the other, so a head is the same solid in all its slices.

Shapes are signed distances, negative inside; `fraction` turns them into volume fractions. The distances are measured in
the template and along convenient directions. They are good to a few per cent, which is enough for the looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Reals = npt.NDArray[np.floating[Any]]
"""Real numbers, float32 wherever there is one for each pixel."""

HALF_WIDTH, HALF_LENGTH, CROWN, EQUATOR = 68.0, 83.0, 72.0, 8.0
"""Template's inner table: half axes across and along, height of the crown above the equator, equator's z (mm)."""

ANGLES = 4096
"""Entries of the tables over the polar angle."""

AIR = -1000.0
"""Hounsfield units of air."""


def fraction(distance: Reals, width: float = 0.8) -> Reals:
    """Volume fraction of a shape in each pixel, 0 to 1: a ramp of +-`width` mm over a signed distance in mm."""
    found: Reals = np.clip(0.5 - distance * (0.5 / width), 0.0, 1.0)
    return found


def blend(hu: Reals, share: Reals, value: float | Reals) -> None:
    """Replace the volume fraction `share` of each pixel of `hu` by a tissue of `value` HU, in place."""
    hu += share * (value - hu)


def ellipsoid(
    x: Reals, y: Reals, z: Reals, center: tuple[float, float, float], radii: tuple[float, float, float]
) -> Reals:
    """Signed distance (mm, about) to an ellipsoid with axes along x, y, z."""
    q = ((x - center[0]) / radii[0]) ** 2 + ((y - center[1]) / radii[1]) ** 2 + ((z - center[2]) / radii[2]) ** 2
    distance: Reals = (np.sqrt(q) - 1.0) * float(np.cbrt(np.prod(radii)))
    return distance


def capsule(x: Reals, y: Reals, z: Reals, a: tuple[float, ...], b: tuple[float, ...], r0: float, r1: float) -> Reals:
    """Signed distance (mm) to a rod from `a` to `b` whose radius goes from `r0` to `r1`."""
    dx, dy, dz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    px, py, pz = x - a[0], y - a[1], z - a[2]
    t = np.clip((px * dx + py * dy + pz * dz) / (dx * dx + dy * dy + dz * dz), 0.0, 1.0)
    distance: Reals = np.sqrt((px - t * dx) ** 2 + (py - t * dy) ** 2 + (pz - t * dz) ** 2) - (r0 + t * (r1 - r0))
    return distance


@dataclass(frozen=True, slots=True)
class SmoothField:
    """A smooth random function of template coordinates: standard normal values, correlated over about `scale` mm."""

    values: Reals
    step: float

    def at(self, x: Reals, y: Reals, z: Reals) -> Reals:
        """Values at points, trilinear; mirrored outside the grid."""
        at = np.stack([(x + 92.0) / self.step, (y + 104.0) / self.step, (z + 82.0) / self.step])
        found: Reals = ndimage.map_coordinates(self.values, at, output=np.float32, order=1, mode="mirror")
        return found


def draw_field(rng: np.random.Generator, scale: float) -> SmoothField:
    """Draw a field whose zero crossings are about 4.4 `scale` mm apart."""
    step = scale / 1.75
    shape = [int(extent / step) + 2 for extent in (184.0, 208.0, 180.0)]
    values = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 1.75, truncate=3.0)
    return SmoothField((values / values.std()).astype(np.float32), step)


@dataclass(frozen=True, slots=True)
class Scan:
    """How a head was scanned: the grid of pixels and its place in the world."""

    size: int
    spacing: float  # mm a pixel
    gap: float  # mm between slices along the table
    thickness: float  # mm
    tilt: float  # of the gantry, radians
    corner: tuple[float, float, float]  # ImagePositionPatient of slice 0, mm

    def position(self, k: int) -> tuple[float, float, float]:
        """ImagePositionPatient of slice `k`, mm: the table moves along z only, also under a tilted gantry."""
        return self.corner[0], self.corner[1], self.corner[2] + k * self.gap

    def column_direction(self) -> tuple[float, float, float]:
        """Direction in which the row number grows; the column number grows along (1, 0, 0)."""
        return 0.0, float(np.cos(self.tilt)), float(np.sin(self.tilt))


@dataclass(frozen=True, slots=True)
class Head:
    """One patient's solid: pose, scale, and tables over the polar angle."""

    rotation: npt.NDArray[np.float64]  # world to head
    shift: npt.NDArray[np.float64]  # head's origin in the world, mm
    scale: npt.NDArray[np.float64]  # head mm for a template mm
    inner: Reals  # inner table's radius at the equator by angle, template mm
    bone: Reals  # thickness of the skull by angle
    scalp: Reals  # thickness of the scalp by angle
    fat: float  # mm of fat under the skin
    muscle: float  # HU of the scalp's other tissue
    marrow: float  # HU of the diploe
    table: float  # HU of the compact tables
    folds: SmoothField  # whose zero crossings are the sulci
    lobes: SmoothField  # slow variation: outlines, widths, face
    headrest: float  # mm between scalp and headrest


@dataclass(frozen=True, slots=True)
class Section:
    """A slice through a head: template coordinates and distances of all pixels, float32 (size, size)."""

    x: Reals
    y: Reals
    z: Reals
    radius: Reals
    angle: npt.NDArray[np.int32]  # entry of the angle tables
    inner: Reals  # signed distance to the inner table, without the skull base
    outer: Reals  # to the skull's outer table
    skin: Reals  # to the skin
    soft: float  # mm by which the slice's thickness blurs the walls here


def draw_head(rng: np.random.Generator, tilt: float) -> Head:
    """Draw a patient's head, posed for a gantry tilted by `tilt` radians."""
    pitch = float(np.clip(rng.normal(0.0, 0.09), -0.24, 0.24)) + tilt
    roll, yaw = (float(np.clip(rng.normal(0.0, s), -0.18, 0.18)) for s in (0.04, 0.07))
    cx, sx, cy, sy, cz, sz = (f(a) for a in (pitch, roll, yaw) for f in (np.cos, np.sin))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    phi = (np.arange(ANGLES, dtype=np.float64) / ANGLES - 0.5) * 2 * np.pi
    t = np.linspace(-np.pi, np.pi, 4 * ANGLES)
    power = 2.0 / rng.uniform(2.1, 2.5)
    along = HALF_LENGTH * np.sign(np.sin(t)) * np.abs(np.sin(t)) ** power
    narrow = 1.0 + rng.uniform(0.04, 0.10) * along / HALF_LENGTH  # the forehead is narrower than the parietal bones
    across = HALF_WIDTH * narrow * np.sign(np.cos(t)) * np.abs(np.cos(t)) ** power
    inner = np.interp(phi, np.arctan2(along, across), np.hypot(along, across), period=2 * np.pi)
    inner = inner * (1.0 + _wave(rng, phi, 0.006))
    bone = rng.uniform(5.0, 7.5) * (1.0 + 0.18 * np.abs(np.sin(phi)) ** 3 + _wave(rng, phi, 0.07))
    scalp = rng.uniform(4.5, 8.5) * (1.0 + _wave(rng, phi, 0.10))
    return Head(
        rotation=(about_z @ about_y @ about_x).T,
        shift=rng.normal(0.0, [4.0, 5.0, 0.0]),
        scale=rng.normal(1.0, 0.025, 3).clip(0.93, 1.07) * float(np.clip(rng.normal(1.0, 0.025), 0.94, 1.06)),
        inner=inner.astype(np.float32),
        bone=bone.astype(np.float32),
        scalp=scalp.astype(np.float32),
        fat=float(rng.uniform(0.3, 4.5)),
        muscle=float(rng.uniform(38.0, 64.0)),
        marrow=float(rng.uniform(350, 750)),
        table=float(rng.uniform(1100, 1700)),
        folds=draw_field(rng, float(rng.uniform(3.2, 4.0))),
        lobes=draw_field(rng, 11.0),
        headrest=float(rng.uniform(4.0, 12.0)),
    )


def _wave(rng: np.random.Generator, phi: npt.NDArray[np.float64], amplitude: float) -> npt.NDArray[np.float64]:
    """A random periodic function of the angle: harmonics 1 to 4, about `amplitude` each."""
    orders = np.arange(1, 5)[:, None]
    phases = rng.uniform(0, 2 * np.pi, (4, 1))
    return np.asarray((rng.normal(0, amplitude, (4, 1)) * np.cos(orders * phi + phases)).sum(0))


def draw_scan(rng: np.random.Generator, count: int, size: int) -> Scan:
    """Draw the grid of a scan of `count` slices from the skull base to above the crown."""
    field = float(rng.choice([220.0, 230.0, 240.0, 250.0]))
    tilt = float(rng.choice([0.0, 0.0, 0.0, rng.uniform(0.1, 0.32)]))
    bottom, top = float(rng.uniform(-62.0, -50.0)), float(rng.uniform(76.0, 86.0))
    gap = (top - bottom) / count
    spacing = round(field / size, 6)
    half = spacing * (size - 1) / 2
    gap = round(gap, 3)
    corner = (-half, -half * float(np.cos(tilt)), bottom + gap / 2 - half * float(np.sin(tilt)))
    return Scan(size, spacing, gap, min(5.0, gap), tilt, corner)


def cut(head: Head, scan: Scan, k: int) -> Section:
    """Cut slice `k` through the head."""
    to_template = (head.rotation / head.scale[:, None]).astype(np.float64)
    start = to_template @ (np.array(scan.position(k)) - head.shift)
    by_column = to_template[:, 0] * scan.spacing
    by_row = to_template @ np.array(scan.column_direction()) * scan.spacing
    steps = np.arange(scan.size)
    x, y, z = (
        (start[i] + by_row[i] * steps).astype(np.float32)[:, None] + (by_column[i] * steps).astype(np.float32)[None, :]
        for i in range(3)
    )
    radius = np.sqrt(x * x + y * y)
    angle = ((np.arctan2(y, x) + np.float32(np.pi)) * np.float32(ANGLES / (2 * np.pi))).astype(np.int32) % ANGLES
    inner_r, bone, scalp = head.inner[angle], head.bone[angle], head.scalp[angle]
    height = np.clip((z + 120.0) * 20.0, 0, 4800).astype(np.int32)
    mid = float(z[scan.size // 2, scan.size // 2])
    slope = float(abs(profile(mid + 1.0, CROWN) - profile(mid - 1.0, CROWN)) / 2 * 70.0)
    return Section(
        x,
        y,
        z,
        radius,
        angle,
        radius - inner_r * _PROFILES[CROWN][height],
        radius - (inner_r + bone) * _PROFILES[CROWN + 7.0][height],
        radius - (inner_r + bone + scalp) * _PROFILES[CROWN + 13.0][height],
        soft=0.6 + 0.5 * scan.thickness / 2 * min(slope, 3.0),
    )


def profile(z: float | npt.NDArray[np.float64], crown: float) -> npt.NDArray[np.float64]:
    """Share of its equatorial radius that the head has at height z: 0 at the crown, less than 1 at the neck."""
    up = np.clip((np.asarray(z) - EQUATOR) / crown, 0.0, 1.0)
    down = np.clip((EQUATOR - np.asarray(z)) / 70.0, 0.0, 1.5)
    return np.asarray((1.0 - up**2.25) ** (1 / 2.25) * (1.0 - 0.12 * down**2))


_HEIGHTS = np.linspace(-120.0, 120.0, 4801)  # mm, in steps of 0.05
_PROFILES = {crown: profile(_HEIGHTS, crown).astype(np.float32) for crown in (CROWN, CROWN + 7.0, CROWN + 13.0)}


def floor_distance(x: Reals, y: Reals, z: Reals) -> Reals:
    """Signed distance (mm, vertical) to the floor of the skull: negative above it, inside the cavity.

    Anterior fossa at z -23 to -16, middle fossae at -41, posterior fossa a bowl down to -66, and between them the sella
    and the clivus.
    """
    side = np.abs(x)
    front = 1.0 / (1.0 + np.exp((y + 28.0) / 2.5))
    back = 1.0 / (1.0 + np.exp((10.0 + 0.35 * side - y) / 3.0))
    middle = 1.0 / (1.0 + np.exp((15.0 - side) / 2.0))
    anterior = -23.0 + 7.0 * np.exp(-(((side - 29.0) / 17.0) ** 2) - ((y + 54.0) / 26.0) ** 2)
    posterior = -66.0 + 22.0 * np.minimum((side / 52.0) ** 2 + ((y - 38.0) / 44.0) ** 2, 2.0)
    sella = np.clip(-20.0 - 1.6 * np.maximum(y + 4.0, 0.0), -60.0, -20.0)
    floor = (1.0 - middle) * sella + middle * (-41.0 + 0.004 * (side - 36.0) ** 2)
    floor += back * (posterior - floor)
    floor += front * (anterior - floor)
    distance: Reals = floor - z
    return distance
