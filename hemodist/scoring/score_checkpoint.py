"""Scores a checkpoint on a data set, on any number of ranks: predictions, scores, heat maps, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hemodist.config.fields import check_ranges
from hemodist.config.run import Run, check
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS
from hemodist.errors import ConfigError
from hemodist.events import Note, Tell
from hemodist.metrics.predictions import Predictions
from hemodist.models.fold_runs import members
from hemodist.models.trained import Trained, check_fits, open_trained, views, window_names
from hemodist.plan.split import label_report
from hemodist.reports.contents import NO_HEAT_MAPS, Description, HeatMapResults
from hemodist.scoring.heat_maps import Masks, target_layer
from hemodist.scoring.label_review import read_predictions, write_review
from hemodist.scoring.options import ScoringRequest
from hemodist.scoring.rows_to_score import predict_rows, rows_to_score
from hemodist.scoring.worst_slices import figure_of, find_worst_slices, play_pointing_game
from hemodist.scoring.write_results import Results, probability_of, write_results
from hemodist.storage.store import Store
from hemodist.world import World


def check_request(request: ScoringRequest) -> tuple[tuple[Trained, ...], Run, DataSet]:
    """Open checkpoint and data set and check that they fit.

    Returns:
        The networks, one but for a k-fold run; the first one's run with what the request changes; the data set.

    Raises:
        UserError: one of them cannot be read, or they do not fit, or nothing is there to score.
    """
    check_ranges(request.options)
    networks = tuple(open_trained(where) for where in members(request.checkpoint))
    run = request.options.applied(networks[0].run, request.dataset)
    check(run)
    if request.options.tta:
        views(run.augment)
    dataset = DataSet.open(request.dataset)
    for trained in networks:
        check_fits(trained, dataset)
    if request.options.masks:
        if len(networks) > 1:
            raise ConfigError(f"--masks wants one network's heat maps, {request.checkpoint} has {len(networks)}")
        if dataset.manifest.config.get("crop_head"):
            raise ConfigError(
                f"{dataset.store.uri} stores head crops, truth masks are of whole slices; shard without --crop-head"
            )
        Masks(request.options.masks)
    if request.options.review_predictions and not request.options.review:
        raise ConfigError("--review-predictions is for --review N; give how many slices are to be reviewed too")
    for uri in request.options.review_predictions:
        read_predictions(uri, dataset)
    rows_to_score(request, networks, dataset)
    return networks, run, dataset


def score_checkpoint(request: ScoringRequest, world: World, tell: Tell) -> Results:
    """Score the checkpoint; every rank computes its part.

    Raises:
        UserError: see `check_request`, or nothing is there to score.
    """
    networks, run, dataset = check_request(request)
    asked = rows_to_score(request, networks, dataset)
    seen = views(run.augment) if request.options.tta else ((),)
    predictions = predict_rows(networks, dataset, asked, run, world, tell, seen)
    if not world.is_rank_0:
        return Results.elsewhere(request.output)
    steps = [trained.step for trained in networks]
    named = f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} networks, steps {', '.join(map(str, steps))}"
    notes = [f"Scored: {request.checkpoint} ({named}) on {asked.part} of {dataset.store.uri}."]
    if asked.warning:
        notes.append(asked.warning)
        tell(Note(asked.warning))
    if request.options.tta:
        notes.append(f"Test-time augmentation: mean probability over {len(seen)} flips.")
    if request.options.repair_any:
        notes.append("P(any) was raised to the largest P of a subtype where it was below.")
    heat_maps = _heat_maps(request, networks, run, dataset, predictions, world, tell, notes)
    world.check_still_owner()
    if request.options.review:
        learned = asked.parts.get("train", asked.rows[:0])
        synthetic = any(trained.synthetic for trained in networks) or bool(dataset.manifest.config.get("synthetic"))
        others, count = request.options.review_predictions, request.options.review
        store = Store.open(request.output)
        notes.append(write_review(store, dataset, run, predictions, learned, others, count, synthetic=synthetic))
        tell(Note(notes[-1]))
    name = run.name if len(networks) == 1 else request.checkpoint.rstrip("/").rpartition("/")[2]
    description = Description(
        title=f"{name}, {named}",
        history=networks[0].saved["state"]["history"] if len(networks) == 1 else (),
        config=run.to_dict(),
        facts={
            "data set": dataset.store.uri,
            "data set digest": dataset.manifest.digest,
            "scored": asked.part,
            "split": label_report(dataset.labels(), asked.parts),
        },
        notes=notes,
        scored={
            "checkpoint": request.checkpoint,
            "step": steps[0] if len(steps) == 1 else steps,
            "part": asked.part,
            "test_time_augmentation": len(seen) > 1,
        },
    )
    return write_results(
        Store.open(request.output),
        dataset,
        predictions,
        description,
        np.mean([trained.prevalence for trained in networks], axis=0),
        heat_maps=heat_maps,
        repaired=request.options.repair_any,
        trained_on_phantoms=any(trained.synthetic for trained in networks),
    )


def _heat_maps(
    request: ScoringRequest, networks: Sequence[Trained], run: Run, dataset: DataSet, predictions: Predictions,
    world: World, tell: Tell, notes: list[str],
) -> HeatMapResults:  # fmt: skip
    """Pictures of the worst slices and the pointing game; a network without maps has neither, and a note says so."""
    if not request.options.worst and not request.options.masks:
        return NO_HEAT_MAPS
    if len(networks) > 1:
        notes.append("No pictures of the worst slices: they are one network's; score the run of a fold to see them.")
        return NO_HEAT_MAPS
    trained = replace(networks[0], run=run)
    if not trained.learned[LABELS.index("any")]:
        notes.append("No pictures of the worst slices: the network has not learned `any`.")
        return NO_HEAT_MAPS
    try:
        target_layer(trained.network, trained.run.model.image_size)
    except ConfigError as error:
        if request.options.masks:
            raise
        notes.append(f"No pictures of the worst slices: {error}.")
        tell(Note(notes[-1]))
        return NO_HEAT_MAPS
    masks = Masks(request.options.masks) if request.options.masks else None
    probability = probability_of(predictions, request.options.repair_any)
    rows = predictions.rows
    pointing = None
    if masks:
        pointing = play_pointing_game(trained, dataset, rows, probability, masks, world.device, tell)
        if pointing is None:
            notes.append(f"The pointing game was not played: no true positive has a mask in {masks.uri}.")
    worst = find_worst_slices(
        trained, dataset, rows, probability, world.device, count=request.options.worst, masks=masks
    )
    return HeatMapResults([figure_of(one, window_names(trained.sharding)) for one in worst], pointing)
