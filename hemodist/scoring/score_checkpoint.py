"""Scores a checkpoint on a data set, on any number of ranks: predictions, scores, heat maps, report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hemodist.config.fields import check_ranges
from hemodist.config.run import Run, check
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.errors import ConfigError
from hemodist.events import Note, Tell
from hemodist.metrics.predictions import Predictions
from hemodist.models.trained import Trained, check_fits, open_trained, views, window_names
from hemodist.plan.prepare import divide
from hemodist.plan.split import Rows, label_report
from hemodist.reports.contents import NO_HEAT_MAPS, Description, HeatMapResults
from hemodist.scoring.heat_maps import Masks, target_layer
from hemodist.scoring.label_review import read_predictions, write_review
from hemodist.scoring.options import ScoringRequest
from hemodist.scoring.run_network import run_over_split
from hemodist.scoring.worst_slices import figure_of, find_worst_slices, play_pointing_game
from hemodist.scoring.write_results import Results, probability_of, write_results
from hemodist.storage.store import Store
from hemodist.world import World


def check_request(request: ScoringRequest) -> tuple[Trained, Run, DataSet]:
    """Open checkpoint and data set and check that they fit.

    Raises:
        UserError: one of them cannot be read, or they do not fit, or nothing is there to score.
    """
    check_ranges(request.options)
    trained = open_trained(request.checkpoint)
    run = request.options.applied(trained.run, request.dataset)
    check(run)
    if request.options.tta:
        views(run.augment)
    dataset = DataSet.open(request.dataset)
    check_fits(trained, dataset)
    if request.options.masks:
        if dataset.manifest.config.get("crop_head"):
            raise ConfigError(
                f"{dataset.store.uri} stores head crops, truth masks are of whole slices; shard without --crop-head"
            )
        Masks(request.options.masks)
    if request.options.review_predictions and not request.options.review:
        raise ConfigError("--review-predictions is for --review N; give how many slices are to be reviewed too")
    for uri in request.options.review_predictions:
        read_predictions(uri, dataset)
    _rows(request, trained, run, dataset)
    return trained, run, dataset


def score_checkpoint(request: ScoringRequest, world: World, tell: Tell) -> Results:
    """Score the checkpoint; every rank computes its part.

    Raises:
        UserError: see `check_request`, or nothing is there to score.
    """
    trained, run, dataset = check_request(request)
    rows, part, parts = _rows(request, trained, run, dataset)
    network = trained.network.to(world.device)
    seen = views(run.augment) if request.options.tta else ((),)
    predictions = replace(run_over_split(network, dataset, rows, run, world, tell, seen), kinds=trained.kinds)
    if not world.is_rank_0:
        return Results.elsewhere(request.output)
    notes = [f"Scored: {request.checkpoint} (step {trained.step}) on {part} of {dataset.store.uri}."]
    if warning := _warning(trained, dataset, rows, part, parts):
        notes.append(warning)
        tell(Note(warning))
    if request.options.tta:
        notes.append(f"Test-time augmentation: mean probability over {len(seen)} flips.")
    if request.options.repair_any:
        notes.append("P(any) was raised to the largest P of a subtype where it was below.")
    shown = replace(trained, run=run)
    heat_maps = _heat_maps(request, shown, dataset, predictions, world, tell, notes)
    world.check_still_owner()
    if request.options.review:
        learned = parts["train"] if _own(trained, dataset) else rows[:0]
        synthetic = trained.synthetic or bool(dataset.manifest.config.get("synthetic"))
        others, count = request.options.review_predictions, request.options.review
        store = Store.open(request.output)
        notes.append(write_review(store, dataset, run, predictions, learned, others, count, synthetic=synthetic))
        tell(Note(notes[-1]))
    description = Description(
        title=f"{run.name}, step {trained.step}",
        history=trained.saved["state"]["history"],
        config=run.to_dict(),
        facts={
            "data set": dataset.store.uri,
            "data set digest": dataset.manifest.digest,
            "scored": part,
            "split": label_report(dataset.labels(), parts),
        },
        notes=notes,
        scored={
            "checkpoint": request.checkpoint,
            "step": trained.step,
            "part": part,
            "test_time_augmentation": len(seen) > 1,
        },
    )
    return write_results(
        Store.open(request.output),
        dataset,
        predictions,
        description,
        trained.prevalence,
        heat_maps=heat_maps,
        repaired=request.options.repair_any,
        trained_on_phantoms=trained.synthetic,
    )


def _own(trained: Trained, dataset: DataSet) -> bool:
    """Whether the network was trained on this data set."""
    return bool(trained.saved["state"]["dataset"] == dataset.manifest.digest)


def _rows(request: ScoringRequest, trained: Trained, run: Run, dataset: DataSet) -> tuple[Rows, str, dict[str, Rows]]:
    """The rows to score, what they are in words, and the parts of the split for the report."""
    own = _own(trained, dataset)
    part = request.options.part if request.options.part != "auto" else "valid" if own else "all"
    if part == "all":
        labelled = (dataset.labels() != UNKNOWN).any(axis=1) & ~dataset.column("duplicate")
        rows = np.flatnonzero(labelled)
        if not len(rows):
            raise ConfigError(
                f"{dataset.store.uri} has no labelled slice to score among its {dataset.manifest.samples} samples; "
                "shard again with --labels CSV, or use jobs/predict.py, which needs no labels"
            )
        parts = {"scored": rows}
        if own:
            divided = divide(run.data, dataset)
            parts |= {"train": divided.train, "valid": divided.valid}
        return rows, "all labelled slices", parts
    divided = divide(run.data, dataset)
    if not own:
        raise ConfigError(
            f"{dataset.store.uri} is not the data set that {run.name} was trained on, so that its {part} fold may hold "
            "patients of the training; give the run's own data set, or --part all where none of them is in it"
        )
    parts = {"train": divided.train, "valid": divided.valid}
    fold = run.data.valid_fold
    if part == "test":
        if run.data.test_fold is None:
            raise ConfigError(f"run {run.name} kept no test fold (data.test_fold is None); use --part valid")
        parts["test"], fold = divided.test, run.data.test_fold
    if not len(parts[part]):
        raise ConfigError(
            f"{dataset.store.uri} has no slice in the {part} fold {fold} of {run.data.folds}; use another --part"
        )
    return parts[part], f"{part} fold {fold} of {run.data.folds}", parts


def _warning(trained: Trained, dataset: DataSet, rows: Rows, part: str, parts: Mapping[str, Rows]) -> str:
    """Why the scores may be better than those of new patients; empty where they are not."""
    if not _own(trained, dataset):
        return (
            "This is not the data set of the training. Pseudonyms differ from data set to data set, so nobody can tell "
            "here whether patients of the training are among the scored ones; if so, the scores are too good."
        )
    if learned := len(np.intersect1d(rows, parts["train"])):
        return (
            f"The network was trained on {learned:,} of the {len(rows):,} scored slices: these scores say nothing of "
            "new patients. --part valid or test scores slices that it has not learned."
        )
    if part.startswith("valid"):
        return "The run's best checkpoint was chosen on this very part, so the scores are a little too good."
    return ""


def _heat_maps(
    request: ScoringRequest, trained: Trained, dataset: DataSet, predictions: Predictions, world: World, tell: Tell,
    notes: list[str],
) -> HeatMapResults:  # fmt: skip
    """Pictures of the worst slices and the pointing game; a network without maps has neither, and a note says so."""
    if not request.options.worst and not request.options.masks:
        return NO_HEAT_MAPS
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
