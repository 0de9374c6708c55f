"""What a check has found, with a remedy, and the table that shows all findings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from rich.text import Text

Verdict = Literal["pass", "to do", "not there"]
"""`not there`: a machine need not have it, and the finding says how runs work without it."""

_STYLES: dict[Verdict, str] = {"pass": "green", "to do": "bold red", "not there": "yellow"}


@dataclass(frozen=True)
class Finding:
    """The outcome of one check on one node.

    Attributes:
        check: what was looked at.
        node: where; empty for what concerns all nodes together.
        verdict: whether something is to be done.
        found: what was measured, in words and numbers.
        remedy: what to do, or what follows where something is not there; empty after a pass.
    """

    check: str
    node: str
    verdict: Verdict
    found: str
    remedy: str = ""


def table(findings: Iterable[Finding]) -> Table:
    """The findings as a table, checks together, nodes in order."""
    shown = Table("check", "node", "", "found", "what to do", title="doctor", title_justify="left", title_style="bold")
    for one in sorted(findings, key=lambda finding: (finding.check, finding.node)):
        shown.add_row(one.check, one.node, Text(one.verdict, _STYLES[one.verdict]), one.found, one.remedy)
    return shown


def line(finding: Finding) -> Text:
    """The finding as a line, for whoever watches."""
    return Text.assemble(
        (f"{finding.verdict:9}", _STYLES[finding.verdict]), f" {finding.check}, {finding.node}: {finding.found}"
    )


def agree(findings: Iterable[Finding], check: str, why: str) -> list[Finding]:
    """One finding where nodes differ in what a check has found; none where they agree.

    Args:
        findings: of all nodes.
        check: the check whose `found` must be the same everywhere.
        why: what happens otherwise, and what helps.
    """
    by_found: dict[str, list[str]] = {}
    for one in findings:
        if one.check == check:
            by_found.setdefault(one.found, []).append(one.node)
    if len(by_found) < 2:
        return []
    listed = "; ".join(f"{', '.join(sorted(nodes))}: {found}" for found, nodes in sorted(by_found.items()))
    return [Finding(check, "all", "to do", f"nodes differ: {listed}", why)]
