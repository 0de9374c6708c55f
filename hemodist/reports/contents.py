"""What an evaluation adds to scores and curves: pooled scores, pictures of the worst slices, the pointing game."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hemodist.metrics.bootstrap import Estimate
from hemodist.metrics.pooling import PooledScores


@dataclass(frozen=True)
class Card:
    """One slice of the report, as text and picture.

    Attributes:
        kind: `missed` (with hemorrhage, low P(any)) or `alarm` (without, high P(any)).
        key: of the sample.
        picture: data URI of its windows and heat map.
        p_any: P(any).
        others: the subtypes with the highest probabilities, in words.
        readers: what readers found, in words.
        wrong: the decision at 0.5 is wrong.
        outlined: the truth's outline is drawn.
        blank: the heat map is empty.
    """

    kind: Literal["missed", "alarm"]
    key: str
    picture: str
    p_any: float
    others: str
    readers: str
    wrong: bool
    outlined: bool
    blank: bool = False


@dataclass(frozen=True)
class Pointing:
    """The pointing game (Zhang et al. 2016) on true positives: does the heat map's peak lie on the hemorrhage?

    Attributes:
        share: of true positives whose peak does, with an interval over groups.
        hits: how many.
        cases: true positives with a mask.
        chance: what a peak anywhere in the picture would reach: the mean share of the picture that the masks cover.
        coarse: the share that Grad-CAM of the layer alone reaches.
        layer: that Grad-CAM was taken from.
    """

    share: Estimate
    hits: int
    cases: int
    chance: float
    coarse: float
    layer: str


@dataclass(frozen=True)
class Extras:
    """Everything that only an evaluation knows.

    Attributes:
        pooled: scores of studies and patients.
        cards: the worst slices.
        pointing: the pointing game, where truth masks are known.
        windows: what the channels show, such as `brain 40/80`, one or three.
    """

    pooled: Sequence[PooledScores] = ()
    cards: Sequence[Card] = ()
    pointing: Pointing | None = None
    windows: Sequence[str] = ()


NO_EXTRAS = Extras()
"""What a training run knows at its end."""
