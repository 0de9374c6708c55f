"""Windows: which Hounsfield units a channel shows as which grey values (DICOM PS3.3 C.11.2.1.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hemodist.errors import ConfigError

MAX_CHANNELS = 3
"""A JPEG or PNG holds one grey channel or three; two windows are refused rather than filled up."""


class WindowError(ConfigError):
    """A window cannot be used; the text says which and what can."""


@dataclass(frozen=True)
class Window:
    """A linear VOI window in HU.

    Attributes:
        center: Window Center (0028,1050), in HU.
        width: Window Width (0028,1051), in HU; at least 1 (PS3.3 C.11.2.1.2.1).
    """

    center: float
    width: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.center) and math.isfinite(self.width) and self.width >= 1):
            raise WindowError(f"window {self}: center and width must be finite and the width at least 1 HU")

    def __str__(self) -> str:
        """The shortest text that `parse` makes the same window of.

        >>> str(Window(40.0, 80)), str(Window(40.123456, 80.5))
        ('40/80', '40.123456/80.5')
        """
        return f"{_shortest(self.center)}/{_shortest(self.width)}"


NAMED = {
    "brain": Window(40, 80),
    "subdural": Window(80, 200),
    "soft_tissue": Window(40, 380),
    "bone": Window(600, 2800),
    "stroke": Window(40, 40),
    "stroke_narrow": Window(32, 8),
}
"""Windows by name, in HU: what radiologists use on head CT; the first three are the default channels."""


def _shortest(value: float) -> str:
    return repr(float(value) + 0.0).removesuffix(".0")  # 0 added, -0 is 0


def parse(text: str) -> Window:
    """A window from its name or from `center/width`.

    >>> parse("brain") == parse("40/80")
    True

    Raises:
        WindowError: neither a name nor two numbers, or the width is below 1 HU.
    """
    if text in NAMED:
        return NAMED[text]
    center, slash, width = text.partition("/")
    try:
        if slash:
            return Window(float(center), float(width))
    except WindowError:
        raise
    except ValueError:
        pass
    raise WindowError(f"unknown window {text!r}; use one of {', '.join(NAMED)}, or center/width in HU such as 40/80")


def parse_channels(texts: Sequence[str]) -> tuple[Window, ...]:
    """The windows of a sample's channels: one (grey) or three different ones (RGB).

    Raises:
        WindowError: a window is unknown, there are not one or three, or two of them are the same.
    """
    windows = tuple(parse(text) for text in texts)
    if len(windows) not in (1, MAX_CHANNELS):
        raise WindowError(f"{len(windows)} windows; an image has one channel or three, so name one window or three")
    if len(set(windows)) != len(windows):
        raise WindowError(f"the windows {', '.join(texts)} are not all different; a repeated channel tells nothing")
    return windows


def apply(hu: npt.NDArray[np.float64], windows: Sequence[Window]) -> npt.NDArray[np.uint8]:
    """Map HU to grey values through each window: the LINEAR function of PS3.3 C.11.2.1.2.1 with y from 0 to 255.

    Args:
        hu: image in HU, float64 [rows, columns].
        windows: one a channel.

    Returns:
        uint8 [rows, columns, channels], rounded to the nearest, ties to even.
    """
    image = np.empty((*hu.shape, len(windows)), np.uint8)
    for channel, window in enumerate(windows):
        image[..., channel] = _linear(hu, window)
    return image


def _linear(hu: npt.NDArray[np.float64], window: Window) -> npt.NDArray[np.uint8]:
    center, width = window.center - 0.5, window.width - 1
    if width == 0:  # The standard's limit: nothing lies between, and the middle itself is black.
        return np.where(hu > center, np.uint8(255), np.uint8(0))
    # The standard's three cases are this line and a clip; at the two borders the line is exactly 0 and 255.
    values = hu - center
    values /= width
    values += 0.5
    values *= 255.0
    np.clip(values, 0.0, 255.0, out=values)
    np.rint(values, out=values)
    return values.astype(np.uint8)
