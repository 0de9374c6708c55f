"""Scoring a checkpoint as the driver sees it: every check first, then the ranks, then the scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hemodist.config.fields import check_ranges
from hemodist.config.operation import ScalingConfig
from hemodist.launch.ranks import run_ranks
from hemodist.launch.results import show_results
from hemodist.scoring.options import ScoringRequest
from hemodist.scoring.score_checkpoint import check_request, score_checkpoint
from hemodist.scoring.write_results import Results
from hemodist.storage import text_file
from hemodist.storage.store import Store


def evaluate(request: ScoringRequest, scaling: ScalingConfig) -> Results:
    """Check that checkpoint and data set fit, score the one on the other, and show the scores.

    Args:
        request: what is scored, and on which data set.
        scaling: where it runs; `workers` 0 scores in this process, without Ray.

    Raises:
        UserError: before any worker starts, for whatever can be known by then.
    """
    check_ranges(scaling)
    _, run, dataset = check_request(request)
    store = Store.open(request.output)
    store.check_writable()
    request = replace(request, output=store.uri, dataset=dataset.store.uri)
    options = request.options
    if options.masks:
        options = replace(options, masks=Store.open(options.masks).uri)
    places = [text_file.place(uri) for uri in options.review_predictions]
    options = replace(options, review_predictions=tuple(f"{folder.uri}/{name}" for folder, name in places))
    request = replace(request, options=options)
    if "://" not in request.checkpoint:
        request = replace(request, checkpoint=str(Path(request.checkpoint).resolve()))
    results: Results = run_ranks(score_checkpoint, request, scaling, name=f"evaluate-{run.name}", folder=store.uri)
    show_results(results)
    return results
