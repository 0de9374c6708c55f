"""What a study is asked, and answers in words that follow from the numbers alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hemodist.metrics.paired import AUC, FEW_GROUPS, LOG_LOSS, Difference, adjusted_by_holm, can_tell, difference
from hemodist.study.as_text import difference_text, duration
from hemodist.study.published import PUBLISHED, PUBLISHED_MAJORITY, PUBLISHED_NONE
from hemodist.study.system import System

_ASKED = (
    ("resnet34_silu", "resnet34", "Does SiLU help?"),
    ("densenet161_cutmix", "densenet161", "Does CutMix help when labels are mixed with the pixels?"),
    ("alexnet_cutmix", "alexnet", "Does CutMix help AlexNet?"),
    ("alexnet_lr_found", "alexnet", "Does a found learning rate help?"),
    ("alexnet_transpose", "alexnet", "Do flips and transpositions help?"),
)
"""Pairs of recipes, the first with a change and the second without it, and what their difference answers."""


@dataclass(frozen=True)
class Question:
    """What was asked, and what the numbers say."""

    asked: str
    answer: str


def answered(systems: Sequence[System], unlike: str) -> tuple[Question, ...]:
    """Every question that these systems can be asked, with its answer.

    Args:
        systems: all of them.
        unlike: why the networks' times are not compared; empty where they are.
    """
    networks = [system for system in systems if system.kind == "network"]
    present = {system.name: system for system in systems}
    questions = [
        Question(question, _effect(present[first], present[second], unlike))
        for first, second, question in _ASKED
        if first in present and second in present
    ]
    return (
        *questions,
        Question("Which system is worth its time?", _worth(systems, networks, unlike)),
        Question("Does it take a network?", _needed(systems, networks)),
        Question("How much can these slices tell?", _power(networks[0])),
        Question("What of the published figures?", _published()),
    )


def _effect(first: System, second: System, unlike: str) -> str:
    """What a change did: the answer is the verdict of the weighted log loss; AUC and time stand beside it."""
    loss, auc = (difference(first.resampled, second.resampled, score) for score in (LOG_LOSS, AUC))
    names = f"{first.name} minus {second.name}"
    if loss.verdict > 0:
        text = f"Yes, on these slices: weighted log loss, {names}, is {difference_text(loss)}."
    elif loss.verdict < 0:
        text = f"No, it does harm on these slices: weighted log loss, {names}, is {difference_text(loss)}."
    else:
        text = (
            f"Cannot tell: weighted log loss, {names}, is {difference_text(loss)}; anything from "
            f"{abs(loss.low):.4f} {_way(loss.low)} to {abs(loss.high):.4f} {_way(loss.high)} fits."
        )
    if not math.isnan(auc.value):
        words = {1: "higher", -1: "lower", 0: "cannot tell"}
        text += f" AUC of any: {difference_text(auc)}, {words[auc.verdict]}."
    return f"{text} {unlike or f'Training takes {first.time / second.time:.2f} times as long.'}"


def _way(difference: float) -> str:
    return "better" if difference < 0 else "worse"


def _worth(systems: Sequence[System], networks: Sequence[System], unlike: str) -> str:
    """The quickest of the networks that beat every answer without one and are not shown to be worse than the best."""
    groups = networks[0].resampled.losses.shape[1]
    if not can_tell(groups):
        return f"These slices cannot tell: they are of {groups} patients, and no test can show a difference on so few."
    trivial = [system for system in systems if system.kind != "network"]
    shown = _shown_better(networks, trivial)
    if not shown:
        names = " and ".join(dict.fromkeys(system.name for system in (trivial[0], _floor(trivial))))
        return f"These slices cannot tell: no network is shown to beat {names}, which need none."
    best = min(shown, key=lambda system: system.estimate(LOG_LOSS).value)
    loss = f"{best.estimate(LOG_LOSS).value:.4f}"
    if len(networks) == 1:
        return f"Only {best.name} was trained (weighted log loss {loss}, {duration(best.time)}), so there is no choice."
    text = f"{best.name} has the least weighted log loss, {loss}, in {duration(best.time)}. "
    if unshown := [system for system in networks if system not in shown]:
        missed = f"{_listed(unshown)} {'is' if len(unshown) == 1 else 'are'} not shown to beat what needs no network."
        text = f"{missed} Of the others: {text}"
    others = [system for system in shown if system is not best]
    apart = {one.first: one for one in _beside(others, best)}
    worse = [name for name, one in apart.items() if one.verdict < 0]
    alike = [system for system in others if system.name not in worse]
    text += f"Shown to be worse: {', '.join(worse)}. " if worse else "No other network is shown to be worse. "
    if unlike:
        return text + (f"{_listed(alike)} cannot be told from it. " if alike else "") + unlike
    quickest = min([best, *alike], key=lambda system: system.time)
    if quickest is best:
        if alike:
            slower = f"{_listed(alike)} cannot be told from it, but {'takes' if len(alike) == 1 else 'take'} longer"
            return text + f"{slower}: {best.name} is worth its time."
        return text + f"{best.name} is worth its time."
    return text + (
        f"{_listed(alike)} cannot be told from it. The quickest of these is {quickest.name}: "
        f"{duration(quickest.time)}, {quickest.time / best.time:.2f} of the time, "
        f"for a difference of {difference_text(apart[quickest.name])}. "
        f"{quickest.name} is worth its time; that {best.name} is worth the rest is not shown."
    )


def _shown_better(networks: Sequence[System], trivial: Sequence[System]) -> list[System]:
    """The networks that beat the constant answer and the best answer without a network."""
    rivals = list(dict.fromkeys((trivial[0], _floor(trivial))))
    beaten = [_beside(networks, rival) for rival in rivals]
    return [network for network, *found in zip(networks, *beaten, strict=True) if all(one.verdict > 0 for one in found)]


def _floor(trivial: Sequence[System]) -> System:
    """The best answer that needs no network."""
    return min(trivial, key=lambda system: system.estimate(LOG_LOSS).value)


def _beside(networks: Sequence[System], rival: System) -> tuple[Difference, ...]:
    """Each network minus the rival; p values adjusted by Holm."""
    return adjusted_by_holm([difference(network.resampled, rival.resampled, LOG_LOSS) for network in networks])


def _needed(systems: Sequence[System], networks: Sequence[System]) -> str:
    """Which networks beat the best answer that needs none."""
    floor = _floor([system for system in systems if system.kind != "network"])
    beside = _beside(networks, floor)
    text = f"Without one, {floor.name} is best: weighted log loss {floor.estimate(LOG_LOSS).value:.4f}"
    text += f" in {duration(floor.time)}. " if floor.seconds else ". "
    groups = ((1, "Shown to be better"), (-1, "Shown to be worse"), (0, "Neither is shown of"))
    parts = [
        f"{words}: " + ", ".join(f"{one.first} ({one.value:+.4f})" for one in beside if one.verdict == verdict)
        for verdict, words in groups
        if any(one.verdict == verdict for one in beside)
    ]
    return text + ". ".join(parts) + "."


def _power(network: System) -> str:
    groups, seeds = network.resampled.losses.shape[1], len(network.seeds)
    text = f"There are {groups} patients and {seeds} {'seed' if seeds == 1 else 'seeds'}. "
    if not can_tell(groups):
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
