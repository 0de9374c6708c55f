from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.metrics.bootstrap import Estimate
from hemodist.metrics.pooling import pooled_scores
from hemodist.metrics.probabilities import probabilities
from hemodist.metrics.scores import score
from hemodist.reports.contents import Description, HeatMapResults, PointingGame, ScoredSplit, SliceFigure
from hemodist.reports.epoch_table import format_history_row, history_header
from hemodist.reports.page import report
from hemodist.reports.score_tables import compare, scores_table

HOSTILE = "<script>alert('x')</script> \"quoted\" & <img src=http://evil.example/x.png>"
SECTIONS = {"summary", "learning", "curves", "calibration", "confusion", "labels", "history", "dataset", "config"}
HISTORY = [
    {
        "epoch": e, "step": 77 * e, "train_loss": 0.4 / e, "valid_loss": 0.42 / e, "accuracy_multi": 0.9 + e / 100,
        "weighted_log_loss": 0.3 / e, "auc_any": None if e == 1 else 0.7 + e / 20, "lr": 1e-3 / e, "seconds": 61.4 * e,
        "images_per_s": 40.0,
    }
    for e in (1, 2, 3, 4)
]  # fmt: skip


def a_split(n=1500, patients=40):
    """Slices whose label depends on the patient and whose probability depends on the label."""
    rng = np.random.default_rng(0)
    groups = rng.integers(patients, size=n)
    sick = rng.random((patients, 6))[groups] < 0.3
    labels = ((rng.random((n, 6)) < [0.5, 0.02, 0.15, 0.1, 0.15, 0.2]) & sick).astype(np.int8)
    labels[:, 0] = labels[:, 1:].max(axis=1)
    labels[rng.random((n, 6)) < 0.01] = UNKNOWN
    probability = probabilities(2.5 * (labels == 1) - 2.5 + rng.normal(size=(n, 6)))
    return probability, labels, groups


BASELINES = {"brain-window threshold": 0.71}


def a_scored_split(split=None, extra_baselines=BASELINES, pooled=()):
    probability, labels, groups = split or a_split()
    scores = score(probability, labels, groups, train_prevalence=np.full(6, 0.1), bootstrap=100)
    return ScoredSplit(scores, probability, labels, groups, pooled, extra_baselines)


def a_report(split=None, *, shown=None, synthetic=True, **changes):
    """The report of a split; `shown` are heat maps and windows, `changes` go to the description and the baselines."""
    scored = a_scored_split(split, **{k: changes.pop(k) for k in ("extra_baselines", "pooled") if k in changes})
    described = {
        "title": "Demo run", "history": HISTORY,
        "config": {"seed": 0, "optim": {"lr": 3e-4, "schedule": {"kind": "one cycle"}}, "tags": ["a", "b"]},
        "facts": {"samples": 1500, "rejected": {"constant image": 3}}, "notes": ["A note."],
    }  # fmt: skip
    return report(Description(**described | changes), scored, synthetic=synthetic, **shown or {})


def a_bare_report(**changes):
    """Without plots, which take the time: one class only, no history."""
    probability, labels, groups = a_split(60)
    return a_report((probability, np.zeros_like(labels), groups), **{"history": []} | changes)


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def images(self):
        return [attrs for tag, attrs in self.tags if tag == "img"]


def text_of(renderable):
    console = Console(width=200, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_the_report_is_one_small_file_that_refers_to_nothing_outside():
    html = a_report()
    page = Page(html)
    for _, attrs in page.tags:
        for name in ("src", "href", "srcset", "action"):
            assert attrs.get(name, "data:").startswith("data:")
    assert not re.search(r"https?://|@import|url\(", html)
    assert not any(tag in ("script", "link", "iframe") for tag, _ in page.tags)
    assert len(html) < 5_000_000


def test_the_report_holds_every_section_and_five_figures():
    page = Page(a_report())
    assert {attrs["id"] for tag, attrs in page.tags if tag == "h2"} == SECTIONS
    assert len(page.images()) == 5
    assert all(image["alt"] for image in page.images())
    for text in (*LABELS, "brain-window threshold", "0.7100", "constant prevalence", "A note.",
                 "optim.schedule.kind", "one cycle", "rejected.constant image", "02:03", "predict none"):  # fmt: skip
        assert text in page.text


def test_only_a_synthetic_run_carries_the_banner():
    words = "synthetic phantom data: no statement on medical performance"
    assert words in a_bare_report(synthetic=True)
    assert words not in a_bare_report(synthetic=False)


def test_hostile_strings_are_shown_and_never_become_tags():
    plain, hostile = (
        Page(
            a_bare_report(
                title=text, notes=[text], config={text: {text: text}}, facts={text: text},
                extra_baselines={text: 0.6},
            )
        )
        for text in ("harmless", HOSTILE)
    )  # fmt: skip
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert hostile.text.count(HOSTILE) == 9  # title twice, baseline, note, fact twice, option three times


def test_the_same_run_gives_the_same_bytes():
    assert a_report() == a_report()


def test_one_class_is_said_and_not_drawn():
    probability, labels, groups = a_split(100)
    labels = np.zeros_like(labels)
    page = Page(a_report((probability, labels, groups), history=[]))
    assert page.images() == []
    assert "any: 0 positive of 100 known slices; with one class only" in page.text
    assert "neither calibration nor a histogram" in page.text
    assert "there is nothing to decide" in page.text
    assert "No training history was given" in page.text
    labels = a_split(100)[1]
    labels[:, 1] = UNKNOWN
    page = Page(a_report((probability, labels, groups)))
    assert "epidural: 0 positive of 0 known" in page.text
    assert len(page.images()) == 5


MISSED = SliceFigure("missed", "ID_1", "data:image/jpeg;base64,AA==", 0.01, "subdural 0.02", "subdural", True, True)


def test_worst_slices_pooled_scores_and_the_pointing_game_are_shown_where_they_are_known():
    probability, labels, groups = a_split(300)
    pooled = pooled_scores("study", groups.astype(str), probability, labels, groups, bootstrap=20)
    pointing = PointingGame(Estimate(0.75, 0.6, 0.9, 100), 30, 40, 0.02, 0.1, "layer4")
    alarm = dataclasses.replace(MISSED, kind="alarm", key="ID_2", readers="no hemorrhage", wrong=False, outlined=False)
    shown = {"heat_maps": HeatMapResults([MISSED, alarm], pointing)}
    split = (probability, labels, groups)
    page = Page(a_report(split, shown=shown, pooled=pooled))
    assert {"pooled", "worst"} <= {attrs["id"] for tag, attrs in page.tags if tag == "h2"}
    text = " ".join(page.text.split())
    for said in ("ID_1", "ID_2", "(wrong at 0.5)", "30 of 40 true positives: 75.0 %", "noisy-or",
                 "60 to 90 %", "outline of the true hemorrhage"):  # fmt: skip
        assert said in text, said
    assert len(page.images()) == 7


def test_facts_by_reason_become_a_table_of_their_own():
    facts = {"samples": 5, "rejected files by reason": {"empty": {"files": 2}, "colour": {"files": 1}}}
    page = Page(a_bare_report(facts=facts))
    assert "rejected files by reason" in page.text
    assert "colour" in page.text


def test_forty_thousand_slices_still_fit_a_mail():
    assert len(a_report(a_split(40_000, 1000))) < 1_500_000


def test_arrays_other_than_those_scored_are_refused():
    split = a_scored_split()
    for name in ("probability", "labels", "groups"):
        with pytest.raises(ValueError, match="pass the arrays that were scored"):
            dataclasses.replace(split, **{name: getattr(split, name)[:7]})


def test_history_lines_have_the_studys_columns_and_one_width():
    lines = [history_header(), *(format_history_row(row) for row in HISTORY)]
    assert lines[0].split() == [
        "epoch", "train_loss", "valid_loss", "accuracy_multi", "time", "weighted_log_loss", "auc_any"
    ]  # fmt: skip
    assert lines[1].split() == ["1", "0.400000", "0.420000", "0.910000", "01:01", "0.300000", "-"]
    assert len({len(line) for line in lines}) == 1
    assert format_history_row({"epoch": 1, "seconds": 3725.2}).split()[4] == "1:02:05"


def test_terminal_tables_show_each_label_and_every_baseline():
    probability, labels, groups = a_split()
    scores = score(probability, labels, groups, train_prevalence=np.full(6, 0.1), bootstrap=50)
    text = text_of(scores_table(scores, {"threshold": 0.6}))
    for word in (*LABELS, "constant prevalence", "any constant", "threshold", "predict none", "majority"):
        assert word in text
    assert f"{scores.auc_any.low:.4f} to {scores.auc_any.high:.4f}" in text
    assert "01:01" in format_history_row(HISTORY[0])


@pytest.mark.parametrize(
    ("ours", "baseline", "groups", "answer"),
    [
        (Estimate(0.8, 0.7, 0.9, 9), 0.5, 40, "yes"),
        (Estimate(0.8, 0.7, 0.9, 9), 0.5, 5, "cannot tell"),
        (Estimate(0.8, 0.7, 0.9, 9), 0.75, 40, "cannot tell"),
        (Estimate(0.8, 0.7, 0.9, 9), 0.85, 40, "cannot tell"),
        (Estimate(0.8, 0.7, 0.9, 9), 0.95, 40, "no"),
        (Estimate(0.3), 0.25, 40, "cannot tell"),
        (Estimate(float("nan")), 0.25, 40, "not defined"),
    ],
)
def test_better_is_said_only_as_far_as_the_interval_allows(ours, baseline, groups, answer):
    assert compare("s", ours, "b", baseline, groups).better == answer
