"""What is shown is what is there."""

from __future__ import annotations

import pytest

from hemodist.events import EpochDone, EvaluationProgress, Note, StepDone
from hemodist.reports import terminal
from hemodist.reports.terminal import TrainingView, console, facts_table


def test_names_with_brackets_are_shown_as_they_are():
    with console.capture() as captured:
        console.print(
            facts_table("run [old]", {"data set": "runs/[old]/a[/old]", "split [x]": {"train": {"[any]": 3}}})
        )
        console.print("report: runs/[/old]/report.html")
    said = captured.get()
    for text in ("run [old]", "runs/[old]/a[/old]", "split [x] train", "[any] 3", "runs/[/old]/report.html"):
        assert text in said


def test_each_line_of_several_runs_begins_with_its_run_and_the_header_stands_once():
    with console.capture() as captured, TrainingView(["a", "longer"]) as view:
        view.of("a")(EpochDone({"epoch": 1, "step": 8}))
        view.of("longer")(EpochDone({"epoch": 1, "step": 8}))
        view.of("a")(Note("a note"))
        view.ended("a", "")
        view.ended("longer", "no room")
    lines = captured.get().splitlines()
    assert [line.split()[0] for line in lines] == ["run", "a", "longer", "a:", "a", "longer"]
    assert lines[3] == "a: a note"
    assert lines[4:] == ["a       finished (1 of 2)", "longer  failed: no room (2 of 2)"]


def test_without_a_terminal_a_plain_line_says_where_each_run_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(terminal, "_PLAIN_SECONDS", -1.0)
    with console.capture() as captured, TrainingView(["a", "b"]) as view:
        view.of("a")(StepDone(3, 8, 0.5, 0, 10.0, 0.0))
        view.of("b")(EvaluationProgress(1, 2))
        view.ended("a", "")
        view.of("b")(EvaluationProgress(2, 2))
    assert captured.get().splitlines() == [
        "a training 3/8 loss 0.5000  10 images/s  data 0% device 0%",
        "a training 3/8 loss 0.5000  10 images/s  data 0% device 0%, b evaluating 1/2",
        "a  finished (1 of 2)",
        "b evaluating 2/2",
    ]
