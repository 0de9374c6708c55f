"""Which labels are most at odds with the slices beside them and with a network, so that a reader looks there first.

Three things speak of a label: the labels of the slices before and after it in its series, a network that did not learn
from it, and the other labels of the same picture. The first two are joined as odds, as if they were independent given
the label (naive Bayes). Of the network's probability the confident threshold of each class is used (Northcutt, Jiang
and Chuang 2021, Confident Learning): the mean probability that it gives a label where readers gave it. That makes up
for a network that seldom says yes to a rare label.

cleanlab would give the network's part alone (`self_confidence`), knows no neighbours, and brings pandas; that part is
three lines here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hemodist.dataset.labels import LABELS, UNKNOWN, contradictory
from hemodist.metrics.bootstrap import F64, I64, Bool

Labels = npt.NDArray[np.int8]

ANY = LABELS.index("any")
NOBODY = -1
"""In place of a row: there is no slice."""

_PRIOR = 4.0
"""How many slices the share of all counts for, beside those with the same neighbours."""

_LEAST = 1e-4
"""Nobody is surer than this, network or neighbours."""


@dataclass(frozen=True, eq=False)
class Suspicion:
    """How suspicious the labels of all samples are.

    Attributes:
        network: float64 [n, 6], P(positive) that the network gave; NaN where it gave none.
        beside: float64 [n, 6], P(positive) as the labels of the slices before and after have it.
        wrong: float64 [n, 6], P(the label is wrong) by both; NaN where the label is unknown.
        same_image: bool [n], another sample shows the same image and has another label.
        contradictory: bool [n], `any` contradicts the subtypes.
        neighbours: int64 [n, 2], the rows of the slices before and after; `NOBODY` where there is none.
    """

    network: F64
    beside: F64
    wrong: F64
    same_image: Bool
    contradictory: Bool
    neighbours: I64

    def order(self, rows: I64) -> I64:
        """The rows, worst first: conflicting labels of one image, then of one slice, then by the most suspicious."""
        worst = np.where(np.isnan(self.wrong), -1, self.wrong).max(axis=1)
        return rows[np.lexsort((-worst[rows], ~self.contradictory[rows], ~self.same_image[rows]))]


def suspicion(network: F64, labels: Labels, series: I64, position: F64, image: I64, used: Bool) -> Suspicion:
    """Look at all labels of a data set.

    Args:
        network: float64 [n, 6], P(positive), best of a network that has not learned from the slice; NaN where there is
            none.
        labels: int8 [n, 6], 0, 1 or `UNKNOWN`.
        series: int64 [n], a number for each series, less than 0 where it is not known.
        position: float64 [n], along the series; NaN where it is not known.
        image: int64 [n], equal for equal images.
        used: bool [n], no second copy of a slice.
    """
    neighbours = neighbouring_rows(series, position, used)
    beside = by_neighbours(labels, neighbours)
    odds = _log_odds(beside) + np.nan_to_num(_confident(network, labels))
    positive = 1 / (1 + np.exp(-odds))
    wrong = np.where(labels == 1, 1 - positive, np.where(labels == 0, positive, np.nan))
    return Suspicion(network, beside, wrong, conflicting(image, labels), contradictory(labels), neighbours)


def neighbouring_rows(series: I64, position: F64, used: Bool) -> I64:
    """The rows of the slices before and after each in its series, int64 [n, 2].

    >>> neighbouring_rows(np.array([5, 5, 7, 5]), np.array([2.0, 1.0, 0.0, 3.0]), np.ones(4, bool)).tolist()
    [[1, 3], [-1, 0], [-1, -1], [0, -1]]
    """
    found = np.full((len(series), 2), NOBODY, np.int64)
    rows = np.flatnonzero(used & (series >= 0) & np.isfinite(position))
    rows = rows[np.lexsort((position[rows], series[rows]))]
    same = series[rows[1:]] == series[rows[:-1]]
    found[rows[1:][same], 0] = rows[:-1][same]
    found[rows[:-1][same], 1] = rows[1:][same]
    return found


def by_neighbours(labels: Labels, neighbours: I64) -> F64:
    """P(positive) of each label given the labels of the slices before and after, float64 [n, 6].

    As counted over the slices with as many positive, negative and unknown neighbours. A label's own count is drawn
    towards that of all labels, since few slices bear a rare one, and the slice itself is left out of both.
    """
    beside = np.concatenate([labels, np.full((1, len(LABELS)), UNKNOWN, np.int8)])[neighbours]  # NOBODY is the last
    kind = 3 * (beside == 1).sum(axis=1) + (beside == 0).sum(axis=1)  # [n, 6], 0 to 6
    known, positive = labels != UNKNOWN, labels == 1

    def share(kinds: I64, known: Bool, positive: Bool, towards: F64) -> F64:
        among, yes = (np.bincount(kinds, mask, minlength=7)[kinds] - mask for mask in (known, positive))
        shared: F64 = (yes + _PRIOR * towards) / (among + _PRIOR)
        return shared

    everywhere = np.full(labels.size, positive.sum() / max(known.sum(), 1))
    of_all = share(kind.ravel(), known.ravel(), positive.ravel(), everywhere).reshape(labels.shape)
    columns = range(len(LABELS))
    return np.stack([share(kind[:, i], known[:, i], positive[:, i], of_all[:, i]) for i in columns], axis=1)


def conflicting(image: I64, labels: Labels) -> Bool:
    """Samples whose image another one shows with another label, bool [n]; unknown contradicts nothing.

    >>> conflicting(np.array([3, 3, 4, 4]), np.array([[1, 0], [1, 1], [0, 0], [0, -1]], np.int8)).tolist()
    [True, True, False, False]
    """
    _, number = np.unique(image, return_inverse=True)
    found = np.zeros(len(image), np.bool_)
    for column in labels.T:
        no, yes = (np.bincount(number, column == value) > 0 for value in (0, 1))
        found |= (no & yes)[number]
    return found


def _log_odds(probability: F64) -> F64:
    clipped = np.clip(probability, _LEAST, 1 - _LEAST)
    odds: F64 = np.log(clipped / (1 - clipped))
    return odds


def _confident(network: F64, labels: Labels) -> F64:
    """What the network adds to the log odds: how far it is above the middle of the two classes' confident thresholds.

    NaN where it was not asked, or a class is missing.
    """
    added = np.full(network.shape, np.nan)
    for column in range(len(LABELS)):
        asked = ~np.isnan(network[:, column])
        of = [network[asked & (labels[:, column] == value), column] for value in (0, 1)]
        if all(len(one) for one in of):
            thresholds = _log_odds(np.array([one.mean() for one in of]))
            added[:, column] = _log_odds(network[:, column]) - thresholds.mean()
    return added
