"""The sentences follow from the numbers, and the page shows all of them."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from hemodist.metrics.bootstrap import resamples
from hemodist.metrics.paired import LOG_LOSS, resample_scores
from hemodist.metrics.probabilities import probabilities
from hemodist.study import report
from hemodist.study.findings import Findings, compare
from hemodist.study.published import PUBLISHED, PUBLISHED_MAJORITY
from hemodist.study.system import System

PATIENTS = 24


def a_split(patients=PATIENTS, n=400):
    rng = np.random.default_rng(0)
    groups = np.unique(rng.integers(patients, size=n), return_inverse=True)[1].astype(np.int64)
    labels = (rng.random((n, 6)) < 0.3).astype(np.int8)
    return labels, groups


def a_system(name, strength, *, kind="network", seconds=60.0, seeds=2, split=None, noise=0.3):
    """One whose answers are the better the greater `strength` is, but for noise of its own."""
    labels, groups = split or a_split()
    rng = np.random.default_rng(hash_of(name))
    logits = strength * (2 * labels - 1) + noise * rng.normal(size=(seeds, *labels.shape))
    counts = resamples(int(groups.max()) + 1, 300, 0)
    scored = resample_scores(name, probabilities(logits), labels, groups, counts)
    if kind != "network":
        times = {"classical": (seconds,), "constant": ()}[kind]
        return System(name, kind, scored, 100, times, tuple(400 / t for t in times))
    history = [
        {
            "epoch": epoch, "step": 5 * epoch, "train_loss": 0.5 / epoch, "valid_loss": 0.6 / epoch,
            "accuracy_multi": 0.8, "weighted_log_loss": 0.6 / epoch, "auc_any": None if epoch == 1 else 0.8,
            "seconds": seconds / 3, "images_per_s": 40.0, "lr": 1e-3,
        }
        for epoch in (1, 2, 3)
    ]  # fmt: skip
    return System(
        name, "network", scored, 1_000_000, (seconds,) * seeds, (40.0,) * seeds, tuple(range(seeds)), (history,) * seeds
    )


def text_of(shown):
    console = Console(width=120)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()


def hash_of(name):
    return int.from_bytes(name.encode()[-7:], "big")


def the_findings(*networks, floor=0.3, failed=None, split=None, synthetic=True, unlike="") -> Findings:
    split = split or a_split()
    others = [
        a_system("constant prevalence", 0.0, kind="constant", seeds=1, split=split, noise=0),
        a_system("k-means", floor, kind="classical", seconds=4.0, seeds=1, split=split),
    ]
    return compare(
        [*others, *networks],
        split[0],
        facts={"samples": 400, "split": {"train": {"slices": 1}}},
        part="test" if unlike else "validation",
        unlike=unlike,
        config={network.name: {"seed": 0, "optim": {"lr": 1e-3}} for network in networks},
        failed=failed or {},
        synthetic=synthetic,
    )


def answer(found, start):
    return next(question.answer for question in found.questions if question.asked.startswith(start))


def test_a_change_that_helps_is_said_to_help():
    found = the_findings(a_system("resnet34", 0.5), a_system("resnet34_silu", 1.0))
    assert answer(found, "Does SiLU help?").startswith("Yes, on these slices")
    assert found.pairs["resnet34_silu", "resnet34"].verdict == 1


def test_a_change_that_harms_is_said_to_harm():
    found = the_findings(a_system("densenet161", 1.0), a_system("densenet161_cutmix", 0.5))
    assert answer(found, "Does CutMix help when").startswith("No, it does harm")


def test_where_numbers_cannot_tell_the_answer_is_that_and_what_would_fit():
    found = the_findings(a_system("resnet34", 0.8), a_system("resnet34_silu", 0.8))
    said = answer(found, "Does SiLU help?")
    assert said.startswith("Cannot tell")
    low, high = found.pairs["resnet34_silu", "resnet34"].low, found.pairs["resnet34_silu", "resnet34"].high
    assert f"{abs(low):.4f} better to {abs(high):.4f} worse fits" in said


def test_questions_about_systems_that_are_not_there_are_not_asked():
    asked = [question.asked for question in the_findings(a_system("resnet18", 0.5)).questions]
    assert not any("SiLU" in question or "CutMix" in question for question in asked)


def test_the_quickest_of_those_that_cannot_be_told_from_the_best_is_worth_its_time():
    found = the_findings(
        a_system("densenet161", 0.803, seconds=900), a_system("resnet18", 0.8, seconds=60), a_system("alexnet", 0.4)
    )
    said = answer(found, "Which system")
    best = min(found.networks, key=lambda s: s.estimate(LOG_LOSS).value)
    assert said.startswith(f"{best.name} has the least weighted log loss")
    assert "Shown to be worse: alexnet." in said
    assert "resnet18 is worth its time" in said


def test_the_best_is_worth_its_time_where_all_others_are_worse_or_slower():
    found = the_findings(a_system("resnet18", 1.2, seconds=60), a_system("alexnet", 0.4, seconds=10))
    assert answer(found, "Which system").endswith("resnet18 is worth its time.")
    slower = the_findings(a_system("resnet18", 0.8, seconds=60), a_system("resnet34", 0.8, seconds=90))
    assert "resnet18 is worth its time" in answer(slower, "Which system")
    assert "there is no choice" in answer(the_findings(a_system("resnet18", 1)), "Which system")


def test_no_network_is_worth_anything_where_none_beats_the_answers_without_one():
    found = the_findings(a_system("resnet18", -0.2, seconds=60), a_system("alexnet", -0.25, seconds=10))
    said = answer(found, "Which system")
    assert said.startswith("These slices cannot tell: resnet18 has the least weighted log loss of the networks")
    assert "is not shown to beat constant prevalence" in said
    assert "worth its time" not in said
    beaten_by_a_method = the_findings(a_system("resnet18", 0.5, seconds=60), floor=0.9)
    assert "is not shown to beat k-means" in answer(beaten_by_a_method, "Which system")


def test_five_patients_cannot_tell_which_system_is_worth_its_time():
    split = a_split(patients=5)
    found = the_findings(a_system("resnet18", 2, split=split), a_system("alexnet", 1, split=split), split=split)
    assert answer(found, "Which system") == (
        "These slices cannot tell: 5 patients are too few for any difference to be shown."
    )


def test_the_quickest_is_not_recommended_where_it_is_not_shown_to_beat_the_answers_without_a_network():
    found = the_findings(a_system("resnet18", 1.2, seconds=60), a_system("alexnet", 0.301, seconds=10), floor=0.3)
    said = answer(found, "Which system")
    assert said.endswith("resnet18 is worth its time.")


def test_times_of_runs_that_were_made_unlike_are_not_compared():
    sentence = "Not all runs were made alike (workers was 1, 8), so their times are not compared."
    found = the_findings(
        a_system("resnet34", 0.803, seconds=900), a_system("resnet34_silu", 0.8, seconds=60), unlike=sentence
    )
    for start in ("Does SiLU help?", "Which system is worth its time?"):
        assert answer(found, start).endswith(sentence)
        assert "times as long" not in answer(found, start)
        assert "of the time" not in answer(found, start)
    assert "not on these slices" in report.page(found)


def test_the_row_beside_the_published_figures_is_of_the_epoch_that_the_recipe_chose():
    history = [
        {"epoch": 1, "weighted_log_loss": 0.2, "auc_any": None},
        {"epoch": 2, "weighted_log_loss": 0.3, "auc_any": 0.9},
    ]
    system = dataclasses.replace(a_system("resnet18", 0.5), histories=(history,))
    assert [row["epoch"] for row in system.scored_rows()] == [1]
    assert [row["epoch"] for row in dataclasses.replace(system, chosen_by="auc_any").scored_rows()] == [2]


def test_networks_are_measured_against_the_best_answer_that_needs_none():
    found = the_findings(a_system("resnet18", 1.2), a_system("alexnet", 0.6), a_system("resnet34", 0.2), floor=0.6)
    said = answer(found, "Does it take a network?")
    assert said.startswith("Without one, k-means is best")
    assert re.search(r"Shown to be better: resnet18 \(-", said)
    assert re.search(r"Shown to be worse: resnet34 \(\+", said)
    assert re.search(r"Neither better nor worse, as far as these slices tell: alexnet \(", said)


@pytest.mark.parametrize(("patients", "warned"), [(4, "cannot give less than p = 0.12"), (24, "are too narrow")])
def test_few_patients_are_said_to_be_few(patients, warned):
    split = a_split(patients)
    found = the_findings(a_system("resnet18", 1.0, split=split), split=split)
    assert warned in answer(found, "How much can these slices tell?")
    assert f"There are {patients} patients and 2 seeds" in answer(found, "How much")


def test_one_seed_is_said_to_be_one():
    found = the_findings(a_system("resnet18", 1.0, seeds=1))
    assert "What another seed would give is not known" in answer(found, "How much")


def test_of_the_published_figures_only_one_beats_the_majority():
    assert [one.system for one in PUBLISHED if one.accuracy > PUBLISHED_MAJORITY] == ["DenseNet"]
    assert "1 of 7 lie above 0.7547" in answer(the_findings(a_system("resnet18", 1)), "What of the published")


class Page(HTMLParser):
    """Checks that tags close, and keeps text, images and links."""

    def __init__(self, html):
        super().__init__()
        self.open, self.text, self.links = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def found():
    names = ("resnet18", "alexnet", "resnet34", "resnet34_silu", "densenet161", "densenet161_cutmix")
    systems = [a_system(name, 0.5 + 0.1 * i, seconds=30.0 * 2**i) for i, name in enumerate(names)]
    return the_findings(*systems, failed={"alexnet_lr_found-s0": "<b>diverged</b>"})


@pytest.fixture(scope="module")
def html(found):
    return report.page(found)


def test_the_page_holds_every_system_question_and_published_figure_and_loads_nothing(found, html):
    page = Page(html)
    assert page.open == []
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
    assert len(page.links) == 3
    assert len(html) < 1_000_000
    for system in found.systems:
        assert system.name in page.text
    for question in found.questions:
        assert question.asked in page.text
        assert question.answer in page.text
    for figure in ("0.676", "0.739", "0.740", "0.262", "0.3575", "0.787", "0.753", "0.7547", "0.7246"):
        assert figure in page.text
    assert "alexnet_lr_found-s0: <b>diverged</b>" in page.text
    assert "synthetic phantom data" in page.text


def test_the_same_findings_give_the_same_page(found, html):
    assert report.page(found) == html


def test_the_table_shows_the_mean_over_seeds_with_its_interval(found):
    row = dict(zip(report.HEADER, report.rows(found)[2], strict=True))
    system = found.networks[0]
    one = system.estimate(LOG_LOSS)
    assert row["system"] == "resnet18"
    assert row["weighted log loss"] == f"{system.resampled.value[LOG_LOSS].mean():.4f}"
    assert row["95 % over patients"] != "-"
    assert (row["seeds"], row["time"], row["images/s"], row["parameters"]) == ("2", "0:30", "40.0", "1,000,000")
    assert one.low < one.value < one.high
    text = text_of(report.table(found))
    assert row["weighted log loss"] in text
    assert "densenet161_cutmix" in text
    assert "…" not in text


def test_markdown_has_one_row_a_system_and_the_scores(found):
    text = report.markdown(found)
    header = text.splitlines()[0]
    body = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(body) == 1 + len(found.systems) + 1 + len(PUBLISHED) + 2
    assert body[1].count("|") == header.count("|")
    assert "- **Does SiLU help?** " in text


def test_json_holds_what_the_page_shows_without_nan(found):
    content = json.loads(found.to_json(), parse_constant=lambda name: pytest.fail(name))
    assert [system["name"] for system in content["systems"]] == [system.name for system in found.systems]
    assert content["questions"]["Does SiLU help?"] == answer(found, "Does SiLU")
    assert content["systems"][0]["scores"]["auc_any"]["value"] == 0.5
    assert len(content["pairs"]) == math.comb(len(found.systems), 2)


def test_a_split_without_hemorrhage_still_gives_a_page_and_real_data_are_not_called_synthetic():
    labels, groups = a_split()
    labels[:, 0] = 0
    split = labels, groups
    page = report.page(the_findings(a_system("resnet18", 1.0, split=split), split=split, synthetic=False))
    assert Page(page).open == []
    assert "nan" not in page
    assert "synthetic" not in page
