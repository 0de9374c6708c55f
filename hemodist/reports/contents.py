"""What a report is made of, beside curves and tables that it draws itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hemodist.dataset.labels import LABELS
from hemodist.metrics.bootstrap import F64, Estimate
from hemodist.metrics.pooling import PooledScores
from hemodist.metrics.scores import Scores


@dataclass(frozen=True)
class Description:
    """What was scored, in words and facts: what a reader of the scores has to know.

    Attributes:
        title: heading of the report.
        history: a mapping an epoch (epoch, step, train_loss, valid_loss, accuracy_multi, weighted_log_loss, auc_any,
            lr, seconds, images_per_s); empty when only a checkpoint was scored.
        config: the resolved configuration, nested.
        facts: of the data set and the split; a mapping of mappings becomes a table of its own.
        notes: sentences for the reader, shown under the summary.
        scored: checkpoint, step, part of the split, and whatever else tells these scores from others; goes into
            `metrics.json` and not into the report.
    """

    title: str
    history: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    notes: Sequence[str] = ()
    scored: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ScoredSplit:
    """A split's scores, with the arrays that they are scores of; curves are drawn from these.

    Attributes:
        scores: of the slices.
        probability: float64 [n, 6], in [0, 1].
        labels: [n, 6], values 0, 1 and `UNKNOWN`.
        groups: [n], the patient group of each slice.
        pooled: scores of the studies and of the patients.
        extra_baselines: AUC of `any` of further simple answers by name, such as a brain-window threshold.

    Raises:
        ValueError: the arrays are not those that were scored.
    """

    scores: Scores
    probability: F64
    labels: npt.NDArray[np.integer[Any]]
    groups: npt.NDArray[Any]
    pooled: Sequence[PooledScores] = ()
    extra_baselines: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the shapes."""
        shape = (self.scores.slices, len(LABELS))
        if self.probability.shape != shape or self.labels.shape != shape or self.groups.shape != shape[:1]:
            raise ValueError(
                f"scores are of {shape}, but probabilities are {self.probability.shape}, labels {self.labels.shape} "
                f"and groups {self.groups.shape}; pass the arrays that were scored"
            )


@dataclass(frozen=True)
class SliceFigure:
    """One of the worst slices, as picture and text.

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
class PointingGame:
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
class HeatMapResults:
    """What heat maps showed of a network. A training run draws none at its end; scoring a checkpoint does.

    Attributes:
        worst: the slices on which the network is most wrong.
        pointing: the pointing game; None where no truth masks are known.
    """

    worst: Sequence[SliceFigure] = ()
    pointing: PointingGame | None = None


NO_HEAT_MAPS = HeatMapResults()
