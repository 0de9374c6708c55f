"""From a repaired slice to the encoded picture of its sample: resampling, windows, then JPEG or PNG; and its digest.

For speed, pixels are kept in 16 bits wherever they fit. Resampling gives sums of pixels, and a table gives the grey
values of all windows for each sum.
"""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import xxhash
from PIL import Image

from shards.dicom import hounsfield
from shards.dicom.read import Slice
from shards.picture import geometry
from shards.picture.windows import apply, parse

Encoding = Literal["jpeg", "png"]

Picture = npt.NDArray[np.uint8 | np.uint32]
"""One window: uint8 [size, size]. Three: uint32 [size, size] of four bytes each, the windows and one that is 0.

Pillow keeps RGB in four bytes too, so that such an array is encoded without being taken apart: with three bytes the
sharder takes 15 to 20 % longer.
"""

EXTENSIONS: dict[str, str] = {"jpeg": "jpg", "png": "png"}
"""Extension of the image in a tar, by encoding."""

_TABLE_STEP = 4096
"""The bounds of a window table are multiples of this many sums; a power of two."""


@dataclass(frozen=True)
class RenderConfig:
    """What decides the bytes of an image.

    Attributes:
        size: rows and columns of the stored image.
        windows: names or `center/width`, one a channel.
        encoding: `jpeg`, or `png` where losslessness matters more than decoding on a GPU.
        quality: of JPEG, 1 to 100; chroma is never subsampled, since the channels are windows and not colours.
        crop_head: store the square around the head rather than the whole image.
    """

    size: int
    windows: tuple[str, ...]
    encoding: Encoding
    quality: int
    crop_head: bool


def with_square_pixels(found: Slice) -> Slice:
    """The slice with square pixels: unchanged, unless the file says that its pixels are not square."""
    if found.spacing is None:
        return found
    stored = geometry.square_pixels(found.stored, found.spacing)
    side = max(found.spacing)
    return found if stored is found.stored else dataclasses.replace(found, stored=stored, spacing=(side, side))


def render(found: Slice, narrow: npt.NDArray[np.int16] | None, config: RenderConfig) -> tuple[Picture, geometry.Box]:
    """The windowed image, and the square of source pixels that it shows.

    Args:
        found: the slice, its pixels as wide as high.
        narrow: its stored values in 16 bits, where they fit (`geometry.narrow`).
        config: what is wanted.
    """
    if config.crop_head:
        box = geometry.head_box(found.stored, found.slope, found.intercept)
    else:
        box = geometry.full_box(*found.stored.shape)
    if narrow is not None and box == geometry.Box(0, 0, 2 * config.size) and narrow.size == box.side**2:
        # Without this way the sharder takes 8 % longer.
        table = sums_table(found.slope, found.intercept, config.windows)
        # 16 bits are never beyond the table; NumPy is fastest where it need not raise.
        return table.take(geometry.sums_of_four(narrow), mode="wrap"), box
    square = geometry.cut(found.stored, box, hounsfield.air_value(found.slope, found.intercept))
    sums, divisor = geometry.resample(square, config.size)
    low, high = int(sums.min()), int(sums.max())
    if high - low >= sums.size:  # A table would cost more than it saves.
        hu = geometry.to_hu(sums, divisor, found.slope, found.intercept)
        return _packed(apply(hu, [parse(text) for text in config.windows])), box
    # Rounded outwards, so that the slices of a series share a table.
    low, high = low & -_TABLE_STEP, high | (_TABLE_STEP - 1)
    table = _window_table(low, high, divisor, found.slope, found.intercept, config.windows)
    return table.take(sums - low), box


@lru_cache(maxsize=16)
def sums_table(slope: float, intercept: float, windows: tuple[str, ...]) -> Picture:
    """The channels for every sum of four narrow values, [65536], by the 16 bits of the sum."""
    table = _window_table(-(2**15), 2**15 - 1, 4, slope, intercept, windows)
    return np.roll(table, 2**15)  # by two's complement: from 0 up, then from -32768 up


@lru_cache(maxsize=16)
def _window_table(
    low: int, high: int, divisor: int, slope: float, intercept: float, windows: tuple[str, ...]
) -> Picture:
    """The channels for every sum from `low` to `high`: what `windows.apply` gives for each."""
    hu = geometry.to_hu(np.arange(low, high + 1)[None], divisor, slope, intercept)
    table: Picture = _packed(apply(hu, [parse(text) for text in windows]))[0]
    return table


def _packed(image: npt.NDArray[np.uint8]) -> Picture:
    """The picture of uint8 [rows, columns, channels]."""
    if image.shape[2] == 1:
        return image[..., 0]
    filled = np.zeros((*image.shape[:2], 4), np.uint8)
    filled[..., :3] = image
    packed: Picture = filled.view(np.uint32)[..., 0]
    return packed


def channels(image: Picture) -> npt.NDArray[np.uint8]:
    """The grey values of a picture's windows, uint8 [size, size, channels]."""
    if image.dtype == np.uint8:
        return image[..., None].astype(np.uint8, copy=False)
    return np.ascontiguousarray(image).view(np.uint8).reshape(*image.shape, 4)[..., :3]


def encode(image: Picture, config: RenderConfig) -> bytes:
    """Encode a picture: one window as grey, three as RGB."""
    height, width = image.shape
    mode = "L" if image.dtype == np.uint8 else "RGBX"
    picture = Image.frombuffer(mode, (width, height), np.ascontiguousarray(image), "raw", mode, 0, 1)
    buffer = io.BytesIO()
    if config.encoding == "png":
        (picture if mode == "L" else picture.convert("RGB")).save(buffer, "PNG")
    else:
        picture.save(buffer, "JPEG", quality=config.quality, subsampling="4:4:4")
    return buffer.getvalue()


def pixel_digest(found: Slice, narrow: npt.NDArray[np.int16] | None) -> bytes:
    """16 bytes that name the repaired image in HU, before cropping and resampling.

    Where slope and intercept are whole numbers, as they mostly are in CT, images of equal HU have equal digests,
    however their files store them.

    The hash is XXH3 (128 bits). It reads at the speed of memory and is not cryptographic: it tells apart images that
    differ by chance, and no more is needed. Somebody who forges two files with one digest only joins two patients'
    groups, so that no split divides them.
    """
    values = found.hu().astype(np.float32) if narrow is None else narrow
    unit = "HU" if narrow is None else f"{found.slope!r} {found.intercept!r}"
    digest = xxhash.xxh3_128(f"{values.dtype.str} {values.shape} {unit}".encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.digest()
