"""What is shown is what is there."""

from __future__ import annotations

from hemodist.reports.terminal import console, facts_table


def test_names_with_brackets_are_shown_as_they_are():
    with console.capture() as captured:
        console.print(
            facts_table("run [old]", {"data set": "runs/[old]/a[/old]", "split [x]": {"train": {"[any]": 3}}})
        )
        console.print("report: runs/[/old]/report.html")
    said = captured.get()
    for text in ("run [old]", "runs/[old]/a[/old]", "split [x] train", "[any] 3", "runs/[/old]/report.html"):
        assert text in said
