"""What the terminal shows at the end of a run."""

from __future__ import annotations

from hemodist.reports.score_tables import scores_table
from hemodist.reports.terminal import console
from hemodist.reports.verdict import SYNTHETIC
from hemodist.scoring.write_results import Results


def show_results(results: Results) -> None:
    """Print the scores beside the trivial baselines, and where the report is."""
    if results.scores is not None:
        if results.synthetic:
            console.print(SYNTHETIC)
        pooled, pointing = results.pooled, results.heat_maps.pointing
        console.print(scores_table(results.scores, results.extra_baselines(), pooled, pointing))
    console.print(f"report: {results.report}", soft_wrap=True)
