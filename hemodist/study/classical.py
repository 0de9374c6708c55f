"""What methods from before neural networks reach on the same split, through scikit-learn.

Each method sees window statistics only, a few dozen numbers a slice: of each window its mean, its standard deviation
and its histogram of gray values. They are read through the pipeline that networks read through, so from the same
checked samples and the same pixels, whole and not augmented.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.preprocessing import StandardScaler

from hemodist.config.data import BatchConfig, DataConfig
from hemodist.config.run import Run
from hemodist.config.training import ModelConfig
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.loading.evaluation_batches import stored_batches
from hemodist.loading.pixels import MEAN, STD
from hemodist.metrics.bootstrap import F64, Bool
from hemodist.scoring.run_network import blood_fraction

BINS = 16
"""Of each window's histogram: 5 HU each in the brain window."""
CLUSTERS = 32
"""Of k-means: a few per kind of slice (skull base to vertex, with and without blood)."""
_BATCH = 64
_FOLDS = 5

Ints = npt.NDArray[np.int64]
Labels = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Window statistics of some slices: all that the methods see of them.

    Attributes:
        rows: int64 [n], rows of the index; without corrupt samples that were masked out.
        windows: float64 [n, 3 * (2 + BINS)], see `window_statistics`.
        blood: float64 [n, 1], share of pixels in the range of acute blood; NaN where no window resolves it.
        seconds: that reading and measuring took.
    """

    rows: Ints
    windows: F64
    blood: F64
    seconds: float


@dataclass(frozen=True, eq=False)
class FittedMethod:
    """One classical method, fitted, with the probabilities that it gives.

    Attributes:
        name: of the method.
        probability: float64 [n, 6], of the slices to answer for.
        parameters: numbers fitted.
        seconds: that fitting and answering took, without the statistics.
    """

    name: str
    probability: F64
    parameters: int
    seconds: float


def statistics(dataset: DataSet, rows: Ints, data: DataConfig) -> Statistics:
    """Measure some slices.

    Args:
        dataset: the data set.
        rows: int64 [n], rows of the index.
        data: cache, threads and what happens to corrupt samples.

    Raises:
        CorruptSampleError: a sample does not match its checksum, and corrupt samples stop the run.
    """
    start = time.monotonic()
    run = Run(
        name="statistics",
        data=data,
        batch=BatchConfig(eval_batch_size=_BATCH),
        model=ModelConfig(image_size=int(dataset.manifest.config["size"])),  # as stored: nothing is resampled
    )
    blood_of = blood_fraction(dataset.manifest.config["windows"])
    kept, windows, blood = [rows[:0]], [np.empty((0, 3 * (2 + BINS)))], [np.empty(0)]
    for batch in stored_batches(dataset, rows, run, torch.device("cpu")):
        whole = batch.weights.numpy() > 0
        kept.append(batch.rows[whole])
        windows.append(window_statistics(batch.images)[whole])
        blood.append(blood_of(batch.images).cpu().numpy()[whole])
    seconds = time.monotonic() - start
    return Statistics(np.concatenate(kept), np.concatenate(windows), np.concatenate(blood)[:, None], seconds)


def window_statistics(images: torch.Tensor) -> F64:
    """Mean, standard deviation and histogram of each window.

    Args:
        images: float32 [b, 3, h, w], normalised as `hemodist.loading` gives them.

    Returns:
        float64 [b, 3 * (2 + BINS)]; gray values in units of the full range, histograms as shares of the pixels.
    """
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    gray = (images * std + mean).flatten(2).double()  # [b, 3, pixels]
    bins = (gray * BINS).long().clamp(0, BINS - 1)
    planes = torch.arange(gray.shape[0] * 3).reshape(-1, 3, 1)
    counts = torch.bincount((planes * BINS + bins).flatten(), minlength=gray.shape[0] * 3 * BINS)
    histogram = counts.reshape(-1, 3, BINS) / gray.shape[2]
    whole = torch.cat([gray.mean(2, keepdim=True), gray.std(2, correction=0, keepdim=True), histogram], dim=2)
    measured: F64 = whole.flatten(1).numpy()
    return measured


def fit_methods(
    train: Statistics, labels: Labels, groups: npt.NDArray[Any], valid: Statistics, *, seed: int = 0
) -> list[FittedMethod]:
    """Fit every method on the training slices and ask it about the others.

    Args:
        train: of the training split.
        labels: [n_train, 6], values 0, 1 and `UNKNOWN`, of `train.rows`.
        groups: [n_train], the group of each.
        valid: of the slices to answer for.
        seed: of k-means' first centers.
    """
    found = []
    if np.isfinite(train.blood).all() and np.isfinite(valid.blood).all():
        found.append(_timed("threshold", lambda: _per_label(_threshold, train.blood, labels, groups, valid.blood, 2)))
    scaler = StandardScaler().fit(train.windows)
    seen, asked = scaler.transform(train.windows), scaler.transform(valid.windows)
    numbers = 4 * seen.shape[1] + 3  # two means and two variances a statistic, the classes' share, two of Platt's
    found.append(_timed("naive Bayes", lambda: _per_label(_naive_bayes, seen, labels, groups, asked, numbers)))
    found.append(_timed("k-means", lambda: _k_means(seen, labels, asked, seed)))
    return found


def smoothed_share(positive: Bool) -> float:
    """Share of positives among n known labels, bool [n], as if there were half a positive and half a negative more.

    So it is never 0 or 1 (Krichevsky and Trofimov 1981). `hemodist.plan.prepare.prevalence` does so only where all
    labels are of one kind, and `hemodist.metrics.scores.share_of_positives` never.

    >>> smoothed_share(np.zeros(99, bool))
    0.005
    """
    return float((positive.sum() + 0.5) / (len(positive) + 1))


def _timed(name: str, answer: Callable[[], tuple[F64, int]]) -> FittedMethod:
    start = time.monotonic()
    probability, parameters = answer()
    return FittedMethod(name, probability, parameters, time.monotonic() - start)


def _per_label(
    method: Callable[[F64, Bool, npt.NDArray[Any], F64], F64],
    seen: F64,
    labels: Labels,
    groups: npt.NDArray[Any],
    asked: F64,
    parameters: int,
) -> tuple[F64, int]:
    """One binary classifier a label, on the slices where it is known; where only one class occurs, its share."""
    columns = []
    for i in range(len(LABELS)):
        known = labels[:, i] != UNKNOWN
        positive = labels[known, i] == 1
        if 0 < positive.sum() < len(positive):
            columns.append(method(seen[known], positive, groups[known], asked))
        else:
            columns.append(np.full(len(asked), smoothed_share(positive)))
    return np.stack(columns, axis=1), parameters * len(LABELS)


def _threshold(seen: F64, positive: Bool, groups: npt.NDArray[Any], asked: F64) -> F64:
    """One number a slice, made a probability (Platt 1999); deciding at 0.5 is a threshold on that number."""
    return _calibrated(seen[:, 0], positive, asked[:, 0])


def _naive_bayes(seen: F64, positive: Bool, groups: npt.NDArray[Any], asked: F64) -> F64:
    """Gaussian naive Bayes, calibrated on patients that it was not fitted on.

    Its own probabilities are far too sure, since it takes dependent statistics for independent ones.
    """
    held_out, odds = np.zeros(len(seen), bool), np.empty(len(seen))
    folds = min(_FOLDS, len(np.unique(groups)))
    for rest, part in GroupKFold(folds).split(seen, groups=groups) if folds > 1 else ():
        if 0 < positive[rest].sum() < len(rest):
            odds[part], held_out[part] = _log_odds(seen[rest], positive[rest], seen[part]), True
    if not 0 < positive[held_out].sum() < held_out.sum():  # all positives are one patient's: nothing to calibrate on
        return np.full(len(asked), smoothed_share(positive))
    return _calibrated(odds[held_out], positive[held_out], _log_odds(seen, positive, asked))


def _log_odds(seen: F64, positive: Bool, asked: F64) -> F64:
    joint = GaussianNB().fit(seen, positive).predict_joint_log_proba(asked)
    odds: F64 = joint[:, 1] - joint[:, 0]
    return odds


def _calibrated(score: F64, positive: Bool, asked: F64) -> F64:
    center, spread = score.mean(), score.std() or 1.0
    fitted = LogisticRegression().fit((score[:, None] - center) / spread, positive)
    probability: F64 = fitted.predict_proba((asked[:, None] - center) / spread)[:, 1]
    return probability


def _k_means(seen: F64, labels: Labels, asked: F64, seed: int) -> tuple[F64, int]:
    """Clusters without labels; then each cluster answers with its own prevalence, drawn towards that of all slices."""
    clusters = min(CLUSTERS, len(seen))
    fitted = MiniBatchKMeans(clusters, random_state=seed, n_init=10, batch_size=4096).fit(seen)
    member, nearest = fitted.predict(seen), fitted.predict(asked)
    columns = []
    for i in range(len(LABELS)):
        known = labels[:, i] != UNKNOWN
        overall = smoothed_share(labels[known, i] == 1)
        slices = np.bincount(member[known], minlength=clusters)
        positive = np.bincount(member[known], labels[known, i] == 1, minlength=clusters)
        columns.append(((positive + overall) / (slices + 1))[nearest])
    return np.stack(columns, axis=1), clusters * (seen.shape[1] + len(LABELS))
