"""What a study found: systems side by side, and answers to its questions that follow from the numbers alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hemodist.dataset.manifest import UNKNOWN
from hemodist.metrics import scores
from hemodist.metrics.bootstrap import LEVEL, Estimate
from hemodist.metrics.paired import AUC, LOG_LOSS, SCORES, Answers, Difference, difference, holm
from hemodist.training.early_stopping import score_as_loss

Kind = Literal["constant", "classical", "network"]
Part = Literal["test", "validation"]

FEW_GROUPS = 30
"""Below so many patients a percentile interval over them is too narrow (Cameron, Gelbach and Miller 2008)."""


@dataclass(frozen=True)
class Published:
    """A figure of the original study, as it was.

    Attributes:
        system: what it was measured on.
        recipe: ours for the same system, or "".
        figure: as published.
        measure: what the figure is.
        accuracy: the same as an accuracy.
    """

    system: str
    recipe: str
    figure: str
    measure: str
    accuracy: float


PUBLISHED = (
    Published("ResNet-18", "resnet18", "0.676", "accuracy", 0.676),
    Published("AlexNet", "alexnet", "0.739", "multi-label accuracy", 0.739),
    Published("AlexNet, found learning rate", "alexnet_lr_found", "0.740", "multi-label accuracy", 0.740),
    Published("ResNet-34 with SiLU", "resnet34_silu", "0.262", "error rate", 1 - 0.262),
    Published("ResNet-34 with SiLU, later", "resnet34_silu", "0.3575", "error rate", 1 - 0.3575),
    Published("DenseNet", "densenet161", "0.787", "accuracy", 0.787),
    Published("DenseNet with CutMix", "densenet161_cutmix", "0.753", "accuracy", 0.753),
)
"""The study trained on 1,238 slices and validated on 262."""

PUBLISHED_MAJORITY = 0.7547
"""Accuracy of always answering the more frequent class, on the study's binary task."""
PUBLISHED_NONE = 0.7246
"""Multi-label accuracy of never answering any label, on the study's positives."""

_ASKED = (
    ("resnet34_silu", "resnet34", "Does SiLU help?"),
    ("densenet161_cutmix", "densenet161", "Does CutMix help when labels are mixed with the pixels?"),
    ("alexnet_cutmix", "alexnet", "Does CutMix help AlexNet?"),
    ("alexnet_lr_found", "alexnet", "Does a found learning rate help?"),
    ("alexnet_transpose", "alexnet", "Do flips and transpositions help?"),
)


@dataclass(frozen=True, eq=False)
class System:
    """One system of the study.

    Attributes:
        name: of recipe or method.
        kind: a constant answer, a classical method or a network.
        answers: its scores, resampled.
        parameters: numbers fitted.
        seconds: of training with validation, a number a seed; of a classical method reading, measuring and fitting.
        images_per_s: while training, a number a seed.
        seeds: that networks were trained from.
        histories: a row an epoch, a list a seed.
        chosen_by: the score on the validation split by which a checkpoint of each seed was chosen.
    """

    name: str
    kind: Kind
    answers: Answers
    parameters: int
    seconds: tuple[float, ...] = ()
    images_per_s: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    histories: tuple[list[dict[str, Any]], ...] = ()
    chosen_by: str = LOG_LOSS

    @property
    def time(self) -> float:
        """Mean of `seconds`; nan where there are none."""
        return float(np.mean(self.seconds)) if self.seconds else math.nan

    def estimate(self, score: str) -> Estimate:
        """The mean over seeds with its interval over patients."""
        return self.answers.estimate(score)

    def spread(self, score: str) -> tuple[float, float]:
        """The lowest and the highest score of a seed."""
        return float(self.answers.value[score].min()), float(self.answers.value[score].max())

    def scored_rows(self) -> list[dict[str, Any]]:
        """The row of each seed's history whose checkpoint was scored: the best by `chosen_by`."""

        def bad(row: Mapping[str, Any]) -> float:
            value = None if row[self.chosen_by] is None else score_as_loss(row, self.chosen_by)
            return math.inf if value is None else value

        return [min(history, key=bad) for history in self.histories]


@dataclass(frozen=True)
class Question:
    """What was asked, and what the numbers say."""

    asked: str
    answer: str


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything that tables and reports show.

    Attributes:
        systems: the constant answer first, then classical methods, then networks in the order that was asked for.
        to_best: each other network, weighted log loss, minus the best network's; p values adjusted by Holm.
        pairs: every two systems, by (first, second); p values of the weighted log loss adjusted by Holm over all.
        questions: with their answers.
        groups: patients scored.
        slices: scored.
        part: of the split that they are: `test` or `validation`.
        baselines: accuracy_multi of predicting none and of the majority, on these slices.
        facts: of data set and split.
        config: by recipe, the resolved configuration.
        unlike: why the networks' times are not compared; empty where they are.
        failed: what went wrong, by run.
        synthetic: whether the data are phantoms.
    """

    systems: tuple[System, ...]
    to_best: tuple[Difference, ...]
    pairs: Mapping[tuple[str, str], Difference]
    questions: tuple[Question, ...]
    groups: int
    slices: int
    part: Part
    baselines: Mapping[str, float]
    facts: Mapping[str, Any]
    config: Mapping[str, Any]
    unlike: str
    failed: Mapping[str, str]
    synthetic: bool

    @property
    def networks(self) -> tuple[System, ...]:
        """The systems that were trained."""
        return tuple(system for system in self.systems if system.kind == "network")

    def to_json(self) -> bytes:
        """Everything but the resamples, as JSON."""
        content = {
            "synthetic": self.synthetic,
            "slices": self.slices,
            "part": self.part,
            "unlike": self.unlike,
            "groups": self.groups,
            "questions": {question.asked: question.answer for question in self.questions},
            "systems": [
                {
                    "name": system.name,
                    "kind": system.kind,
                    "parameters": system.parameters,
                    "seeds": system.seeds,
                    "seconds": system.seconds,
                    "images_per_s": system.images_per_s,
                    "scores": {
                        score: vars(system.estimate(score)) | {"by_seed": system.answers.value[score].tolist()}
                        for score in SCORES
                    },
                    "histories": system.histories,
                }
                for system in self.systems
            ],
            "to_best": [vars(one) | {"verdict": one.verdict} for one in self.to_best],
            "pairs": [vars(one) | {"verdict": one.verdict} for one in self.pairs.values()],
            "baselines": dict(self.baselines),
            "published": [vars(one) for one in PUBLISHED],
            "published_majority": PUBLISHED_MAJORITY,
            "published_predict_none": PUBLISHED_NONE,
            "facts": dict(self.facts),
            "config": dict(self.config),
            "failed": dict(self.failed),
        }
        return (json.dumps(scores.plain_json(content), indent=2) + "\n").encode()


def compare(
    systems: Sequence[System],
    labels: npt.NDArray[np.integer[Any]],
    *,
    facts: Mapping[str, Any],
    part: Part,
    config: Mapping[str, Any],
    failed: Mapping[str, str],
    synthetic: bool,
    unlike: str = "",
) -> Findings:
    """Work out differences and answers.

    Args:
        systems: one or more networks among them, all scored on the same slices.
        labels: [n, 6], values 0, 1 and `UNKNOWN`, of the slices scored.
        facts: see `Findings`, as those after it.
        part: see there.
        config: see there.
        failed: see there.
        synthetic: see there.
        unlike: see there.
    """
    pairs = [
        difference(first.answers, second.answers, LOG_LOSS)
        for number, first in enumerate(systems)
        for second in systems[:number]
    ]
    networks = [system for system in systems if system.kind == "network"]
    best = min(networks, key=lambda system: system.estimate(LOG_LOSS).value)
    to_best = _adjusted([difference(s.answers, best.answers, LOG_LOSS) for s in networks if s is not best])
    present = {system.name: system for system in systems}
    questions = [
        Question(question, _effect(present[first], present[second], unlike))
        for first, second, question in _ASKED
        if first in present and second in present
    ]
    questions.append(Question("Which system is worth its time?", _worth(best, networks, to_best, unlike)))
    questions.append(Question("Does it take a network?", _floor(systems, networks)))
    questions.append(Question("How much can these slices tell?", _power(best)))
    questions.append(Question("What of the published figures?", _published()))
    known = labels != UNKNOWN
    none, some = (labels == 0).sum(axis=0), (labels == 1).sum(axis=0)
    return Findings(
        systems=tuple(systems),
        to_best=to_best,
        pairs={(one.first, one.second): one for one in _adjusted(pairs)},
        questions=tuple(questions),
        groups=best.answers.losses.shape[1],
        slices=len(labels),
        part=part,
        baselines={
            "predict none": float(none.sum() / known.sum()),
            "majority": float(np.maximum(none, some).sum() / known.sum()),
        },
        facts=facts,
        config=config,
        unlike=unlike,
        failed=failed,
        synthetic=synthetic,
    )


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss.

    >>> clock(75.4), clock(3725), clock(0.31)
    ('1:15', '1:02:05', '0.3 s')
    """
    if not math.isfinite(seconds):
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def shown(one: Difference) -> str:
    """A difference as text: value, interval, and p where there is a test."""
    p = "" if math.isnan(one.p) else f"; p = {one.p:.2g}"
    return f"{one.value:+.4f} (95 % interval {one.low:+.4f} to {one.high:+.4f}{p})"


def _adjusted(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    adjusted = holm([one.p for one in differences])
    return tuple(replace(one, p=p) for one, p in zip(differences, adjusted, strict=True))


def _effect(first: System, second: System, unlike: str) -> str:
    """What a change did: the answer is the verdict of the weighted log loss; AUC and time stand beside it."""
    loss, auc = (difference(first.answers, second.answers, score) for score in (LOG_LOSS, AUC))
    names = f"{first.name} minus {second.name}"
    if loss.verdict > 0:
        text = f"Yes, on these slices: weighted log loss, {names}, is {shown(loss)}."
    elif loss.verdict < 0:
        text = f"No, it does harm on these slices: weighted log loss, {names}, is {shown(loss)}."
    else:
        text = (
            f"Cannot tell: weighted log loss, {names}, is {shown(loss)}; anything from "
            f"{abs(loss.low):.4f} {_way(loss.low)} to {abs(loss.high):.4f} {_way(loss.high)} fits."
        )
    if not math.isnan(auc.value):
        words = {1: "higher", -1: "lower", 0: "cannot tell"}
        text += f" AUC of any: {shown(auc)}, {words[auc.verdict]}."
    return f"{text} {unlike or f'Training takes {first.time / second.time:.2f} times as long.'}"


def _way(difference: float) -> str:
    return "better" if difference < 0 else "worse"


def _worth(best: System, networks: Sequence[System], to_best: Sequence[Difference], unlike: str) -> str:
    """The quickest of the networks that are not shown to be worse than the best one."""
    loss = f"{best.estimate(LOG_LOSS).value:.4f}"
    if len(networks) == 1:
        return f"Only {best.name} was trained (weighted log loss {loss}, {clock(best.time)}), so there is no choice."
    worse = [one.first for one in to_best if one.verdict < 0]
    alike = [system for system in networks if system is not best and system.name not in worse]
    text = f"{best.name} has the least weighted log loss, {loss}, in {clock(best.time)}. "
    text += f"Shown to be worse: {', '.join(worse)}. " if worse else "No other network is shown to be worse. "
    if unlike:
        return text + (f"{_listed(alike)} cannot be told from it. " if alike else "") + unlike
    quickest = min([best, *alike], key=lambda system: system.time)
    if quickest is best:
        if alike:
            slower = f"{_listed(alike)} cannot be told from it, but {'takes' if len(alike) == 1 else 'take'} longer"
            return text + f"{slower}: {best.name} is worth its time."
        return text + f"{best.name} is worth its time."
    apart = next(one for one in to_best if one.first == quickest.name)
    return text + (
        f"{_listed(alike)} cannot be told from it. The quickest of these is {quickest.name}: {clock(quickest.time)}, "
        f"{quickest.time / best.time:.2f} of the time, for a difference of {shown(apart)}. "
        f"{quickest.name} is worth its time; that {best.name} is worth the rest is not shown."
    )


def _floor(systems: Sequence[System], networks: Sequence[System]) -> str:
    """Which networks beat the best answer that needs none."""
    floor = min((system for system in systems if system.kind != "network"), key=lambda s: s.estimate(LOG_LOSS).value)
    beside = _adjusted([difference(network.answers, floor.answers, LOG_LOSS) for network in networks])
    text = f"Without one, {floor.name} is best: weighted log loss {floor.estimate(LOG_LOSS).value:.4f}"
    text += f" in {clock(floor.time)}. " if floor.seconds else ". "
    groups = ((1, "Shown to be better"), (-1, "Shown to be worse"), (0, "Neither is shown of"))
    parts = [
        f"{words}: " + ", ".join(f"{one.first} ({one.value:+.4f})" for one in beside if one.verdict == verdict)
        for verdict, words in groups
        if any(one.verdict == verdict for one in beside)
    ]
    return text + ". ".join(parts) + "."


def _power(best: System) -> str:
    groups, seeds = best.answers.losses.shape[1], len(best.seeds)
    text = f"There are {groups} patients and {seeds} {'seed' if seeds == 1 else 'seeds'}. "
    if 2.0 / 2**groups >= 1 - LEVEL:
        text += f"With {groups} patients the test cannot give less than p = {2 / 2**groups:.2g}, so it finds nothing. "
    if groups < FEW_GROUPS:
        text += f"Intervals over fewer than {FEW_GROUPS} patients are too narrow. "
    if seeds == 1:
        text += "What another seed would give is not known: differences may be the seed's. "
    elif seeds < 5:
        text += "So few seeds understate how much another one could change. "
    return text + "A system counts as better only where its interval excludes 0 and the swap test gives p < 0.05."


def _published() -> str:
    above = [f"{one.system} {one.accuracy:.4g}" for one in PUBLISHED if one.accuracy > PUBLISHED_MAJORITY]
    return (
        f"As accuracies (1 - error rate), {len(above)} of {len(PUBLISHED)} lie above {PUBLISHED_MAJORITY}, which "
        f"always answering the majority gives on the study's binary task: {', '.join(above)}. "
        f"Predicting none gives {PUBLISHED_NONE} on its positives."
    )


def _listed(systems: Sequence[System]) -> str:
    names = [system.name for system in systems]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
