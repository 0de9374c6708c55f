"""What a study is asked, and answers in words that follow from the numbers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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


def answered(
    systems: Sequence[System], best: System, to_best: Sequence[Difference], unlike: str
) -> tuple[Question, ...]:
    """Every question that these systems can be asked, with its answer.

    Args:
        systems: all of them.
        best: the network with the least weighted log loss.
        to_best: each other network minus the best one.
        unlike: why the networks' times are not compared; empty where they are.
    """
    networks = [system for system in systems if system.kind == "network"]
    beside = _beside_trivial(systems, networks)
    present = {system.name: system for system in systems}
    questions = [
        Question(question, _effect(present[first], present[second], unlike))
        for first, second, question in _ASKED
        if first in present and second in present
    ]
    return (
        *questions,
        Question("Which system is worth its time?", _worth(best, networks, to_best, beside, unlike)),
        Question("Does it take a network?", _floor(systems, beside)),
        Question("How much can these slices tell?", _power(best)),
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


def _beside_trivial(systems: Sequence[System], networks: Sequence[System]) -> dict[str, tuple[Difference, ...]]:
    """By answer without a network, each network minus it; p values adjusted for all that is asked here."""
    trivial = [system for system in systems if system.kind != "network"]
    asked = [difference(network.resampled, one.resampled, LOG_LOSS) for one in trivial for network in networks]
    adjusted = adjusted_by_holm(asked)
    return {one.name: tuple(found for found in adjusted if found.second == one.name) for one in trivial}


def _worth(
    best: System,
    networks: Sequence[System],
    to_best: Sequence[Difference],
    beside: Mapping[str, Sequence[Difference]],
    unlike: str,
) -> str:
    """The quickest of the networks that are not shown to be worse than the best one; none that beats no trivial answer.

    Args:
        best: the network with the least weighted log loss.
        networks: all of them.
        to_best: each other network minus the best one.
        beside: see `_beside_trivial`.
        unlike: why the networks' times are not compared; empty where they are.
    """
    groups = best.resampled.losses.shape[1]
    if not can_tell(groups):
        return f"These slices cannot tell: {groups} patients are too few for any difference to be shown."
    shown = {system.name for system in networks}
    for name, differences in beside.items():
        shown &= {one.first for one in differences if one.verdict > 0}
        if best.name not in shown:
            return (
                f"These slices cannot tell: {best.name} has the least weighted log loss of the networks, "
                f"{best.estimate(LOG_LOSS).value:.4f}, and is not shown to beat {name}, which needs no network "
                f"(difference {difference_text(next(one for one in differences if one.first == best.name))})."
            )
    loss = f"{best.estimate(LOG_LOSS).value:.4f}"
    if len(networks) == 1:
        return f"Only {best.name} was trained (weighted log loss {loss}, {duration(best.time)}), so there is no choice."
    worse = [one.first for one in to_best if one.verdict < 0]
    alike = [system for system in networks if system is not best and system.name not in worse]
    text = f"{best.name} has the least weighted log loss, {loss}, in {duration(best.time)}. "
    text += f"Shown to be worse: {', '.join(worse)}. " if worse else "No other network is shown to be worse. "
    if unlike:
        return text + (f"{_listed(alike)} cannot be told from it. " if alike else "") + unlike
    if alike:
        text += f"{_listed(alike)} cannot be told from it. "
    if unproven := [system for system in alike if system.name not in shown]:
        text += f"Of these, not shown to beat every answer without a network: {_listed(unproven)}. "
    quickest = min([best, *(one for one in alike if one.name in shown)], key=lambda system: system.time)
    if quickest is best:
        return text + f"{best.name} is worth its time."
    apart = next(one for one in to_best if one.first == quickest.name)
    return text + (
        f"The quickest of these is {quickest.name}: "
        f"{duration(quickest.time)}, {quickest.time / best.time:.2f} of the time, "
        f"for a difference of {difference_text(apart)}. "
        f"{quickest.name} is worth its time; that {best.name} is worth the rest is not shown."
    )


def _floor(systems: Sequence[System], beside: Mapping[str, Sequence[Difference]]) -> str:
    """Which networks beat the best answer that needs none."""
    floor = min((system for system in systems if system.kind != "network"), key=lambda s: s.estimate(LOG_LOSS).value)
    text = f"Without one, {floor.name} is best: weighted log loss {floor.estimate(LOG_LOSS).value:.4f}"
    text += f" in {duration(floor.time)}. " if floor.seconds else ". "
    groups = (
        (1, "Shown to be better"),
        (-1, "Shown to be worse"),
        (0, "Neither better nor worse, as far as these slices tell"),
    )
    parts = [
        f"{words}: " + ", ".join(f"{one.first} ({one.value:+.4f})" for one in beside[floor.name] if one.verdict == way)
        for way, words in groups
        if any(one.verdict == way for one in beside[floor.name])
    ]
    return text + ". ".join(parts) + "."


def _power(best: System) -> str:
    groups, seeds = best.resampled.losses.shape[1], len(best.seeds)
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
