"""The page of a prediction: studies ranked by P(any), and the most suspicious slices with heat maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hemodist.dataset.labels import LABELS
from hemodist.metrics.pooling import Pooled, unit_names
from hemodist.metrics.probabilities import inconsistent
from hemodist.models.trained import Trained
from hemodist.predict.new_slices import PredictedSlices
from hemodist.predict.pictures import SlicePicture
from hemodist.reports.as_text import number
from hemodist.reports.page import template
from hemodist.reports.verdict import FOR_RESEARCH, SYNTHETIC
from hemodist.scoring.worst_slices import data_uri, likeliest, slice_picture

STUDIES_PICTURED, SLICES_EACH, STUDIES_LISTED = 12, 3, 200
ANY = LABELS.index("any")


@dataclass(frozen=True)
class RankedStudy:
    """A study and its slices.

    Attributes:
        name: pseudonym, or the slice's ID in brackets.
        rows: of the predicted slices, the highest P(any) first.
    """

    name: str
    rows: tuple[int, ...]

    @property
    def most(self) -> tuple[int, ...]:
        """The rows that look most like hemorrhage."""
        return self.rows[:SLICES_EACH]


def ranked(predicted: PredictedSlices) -> list[RankedStudy]:
    """All studies, the highest P(any) of a slice first."""
    if not predicted.keys:
        return []
    pooled = Pooled.of(unit_names(predicted.studies, np.array(predicted.names)))
    found: dict[int, list[int]] = {}
    for row in np.argsort(-predicted.probability[:, ANY], kind="stable").tolist():
        found.setdefault(int(pooled.unit[row]), []).append(row)
    return [RankedStudy(str(pooled.names[unit]), tuple(rows)) for unit, rows in found.items()]


def pictured(predicted: PredictedSlices) -> list[str]:
    """Keys of the slices that the page shows."""
    return [predicted.keys[row] for study in ranked(predicted)[:STUDIES_PICTURED] for row in study.most]


def trained_on(members: Sequence[Trained], predicted: PredictedSlices, repaired: bool) -> dict[str, Any]:
    """What was predicted by what: of each network its data set and the scores of the epoch that was kept."""
    return {
        "purpose": FOR_RESEARCH,
        "synthetic": any(member.synthetic for member in members),
        "slices": len(predicted.keys),
        "p_any_below_a_subtype": int(inconsistent(predicted.probability).sum()),
        "p_any_raised_to_the_subtypes": repaired,
        "networks": [_about(member) for member in members],
    }


def about_lines(about: Mapping[str, Any]) -> list[str]:
    """`trained_on` in sentences, for terminal and page."""
    lines = [SYNTHETIC] if about["synthetic"] else []
    for one in about["networks"]:
        kind = "synthetic phantoms" if one["synthetic"] else "no phantoms"
        scores = ", ".join(f"{name} {number(value)}" for name, value in one["scores"].items())
        lines.append(
            f"{one['run']} ({one['model']}, step {one['step']}) was trained on {one['dataset']} ({kind}); "
            + (f"on its validation fold: {scores}." if scores else "no score of it was kept.")
        )
    if about["p_any_raised_to_the_subtypes"]:
        lines.append("P(any) was raised to the largest P of a subtype where it was below.")
    elif count := about["p_any_below_a_subtype"]:
        lines.append(
            f"P(any) lies below P of a subtype, which cannot be, in {count:,} of {about['slices']:,} slices; "
            "--repair-any raises it."
        )
    return lines


def page(
    predicted: PredictedSlices, pictures: Mapping[str, SlicePicture], about: Mapping[str, Any], no_pictures: str = ""
) -> str:
    """The page as HTML.

    Args:
        predicted: all slices.
        pictures: by key, those of `pictured`; empty where the network has no heat maps.
        about: of `trained_on`.
        no_pictures: why there are no pictures; empty where there are.
    """
    studies = ranked(predicted)
    return template("hemodist.predict", "predictions.html.j2").render(
        title="Predictions",
        synthetic=about["synthetic"],
        about=[line for line in about_lines(about) if line != SYNTHETIC],
        slices=len(predicted.keys),
        rejected=len(predicted.rejected),
        studies=len(studies),
        listed=[_row(predicted, study) for study in studies[:STUDIES_LISTED]],
        labels=LABELS,
        shown=[
            (study, [_card(predicted, row, pictures[predicted.keys[row]]) for row in study.most])
            for study in studies[:STUDIES_PICTURED]
            if pictures
        ],
        no_pictures=no_pictures,
    )


def _about(member: Trained) -> dict[str, Any]:
    history = member.saved["state"].get("history") or []
    row: Mapping[str, Any] = next((one for one in reversed(history) if one.get("step") == member.step), {})
    names = ("weighted_log_loss", "auc_any", "accuracy_multi")
    return {
        "checkpoint": member.where,
        "run": member.run.name,
        "model": member.run.model.name,
        "step": member.step,
        "dataset": member.run.data.dataset,
        "dataset_digest": member.saved["state"]["dataset"],
        "synthetic": member.synthetic,
        "scores": {name: row[name] for name in names if row.get(name) is not None},
    }


def _where(predicted: PredictedSlices, row: int) -> str:
    return predicted.paths[row] or predicted.names[row]


def _row(predicted: PredictedSlices, study: RankedStudy) -> tuple[str, ...]:
    most = predicted.probability[list(study.rows)].max(axis=0)
    return study.name, str(len(study.rows)), _where(predicted, study.most[0]), *(number(p, 3) for p in most)


def _card(predicted: PredictedSlices, row: int, shown: SlicePicture) -> dict[str, Any]:
    probability = predicted.probability[row]
    return {
        "picture": data_uri(slice_picture(shown.windows, shown.heat, None, shown.names)),
        "p_any": number(probability[ANY], 3),
        "others": likeliest(probability),
        "where": _where(predicted, row),
        "blank": not shown.heat.any(),
    }
