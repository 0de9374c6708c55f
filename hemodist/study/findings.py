"""What a study found: systems side by side, and answers to its questions that follow from the numbers alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hemodist.metrics.paired import LOG_LOSS, SCORES, Difference, adjusted_by_holm, difference
from hemodist.metrics.plain_json import plain_json
from hemodist.metrics.scores import constant_accuracies
from hemodist.study.published import PUBLISHED, PUBLISHED_MAJORITY, PUBLISHED_NONE
from hemodist.study.questions import Question, answered
from hemodist.study.system import System

Part = Literal["test", "validation"]


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
                        score: vars(system.estimate(score)) | {"by_seed": system.resampled.value[score].tolist()}
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
        return (json.dumps(plain_json(content), indent=2) + "\n").encode()


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
        difference(first.resampled, second.resampled, LOG_LOSS)
        for number, first in enumerate(systems)
        for second in systems[:number]
    ]
    networks = [system for system in systems if system.kind == "network"]
    best = min(networks, key=lambda system: system.estimate(LOG_LOSS).value)
    to_best = adjusted_by_holm([difference(s.resampled, best.resampled, LOG_LOSS) for s in networks if s is not best])
    none, majority = constant_accuracies(labels)
    return Findings(
        systems=tuple(systems),
        to_best=to_best,
        pairs={(one.first, one.second): one for one in adjusted_by_holm(pairs)},
        questions=answered(systems, best, to_best, unlike),
        groups=best.resampled.losses.shape[1],
        slices=len(labels),
        part=part,
        baselines={"predict none": none, "majority": majority},
        facts=facts,
        config=config,
        unlike=unlike,
        failed=failed,
        synthetic=synthetic,
    )
