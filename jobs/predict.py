"""Predict scans: `python jobs/predict.py RUN SOURCE --output submission.csv`.

Exit code 0: every file has a prediction. 1: an error of the program. 2: the input or a flag cannot be used. 3: done,
but a larger share of the files than --max-rejected-fraction has no prediction, each with its reason in
submission.rejected.csv. 130: interrupted.
"""

from __future__ import annotations

import tyro

from hemodist.job import filled, run_job
from hemodist.predict.options import PredictConfig

EXIT_NOT_PREDICTED = 3


def main() -> int:
    """Read the flags, predict, write."""
    config = tyro.cli(PredictConfig, description=filled(__doc__))
    config.check()

    from hemodist.cluster.session import cluster, map_tasks
    from hemodist.dataset.dataset import DataSet
    from hemodist.dataset.manifest import MANIFEST
    from hemodist.predict import page, submission
    from hemodist.predict.networks import check_settings, no_heat_maps, settings_of
    from hemodist.predict.new_slices import (
        Chunk,
        pictures_of_files,
        pictures_of_samples,
        predict_chunk,
        predict_dataset,
    )
    from hemodist.reports.terminal import TrainingView, console, errors, facts_table
    from hemodist.reports.verdict import NO_DEVICE
    from hemodist.storage.store import Store
    from shards.building import for_prediction

    settings = settings_of(config)
    members = check_settings(settings)
    submission.place(config.output)[0].check_writable()
    store = Store.open(config.source)
    is_dataset = store.size(MANIFEST) is not None
    submission.check_places(config, store, is_dataset)
    if is_dataset:
        dataset = DataSet.open(config.source)
        with TrainingView() as view:
            outcomes = [predict_dataset(settings, dataset, view)]
    else:
        files = for_prediction.chunks(store.uri)
        chunks = [Chunk(settings, draw) for draw in files]
        if config.workers:
            with cluster(config.workers):
                outcomes = [done for _, done in map_tasks(predict_chunk, chunks, in_flight=2 * config.workers)]
        else:
            outcomes = [predict_chunk(chunk) for chunk in chunks]
    outcome = submission.merged(outcomes)
    about = page.trained_on(members, outcome, config.repair_any)
    keys = [] if (lacking := no_heat_maps(members)) else page.pictured(outcome)
    if is_dataset:
        pictures = pictures_of_samples(settings, dataset, keys)
    else:
        pictures = pictures_of_files(settings, for_prediction.chosen(files, keys))
    places = submission.write(config.output, outcome, page.page(outcome, pictures, about, lacking), about)
    share = len(outcome.rejected) / (len(outcome.keys) + len(outcome.rejected))
    facts = {"slices predicted": len(outcome.keys), "files without a prediction": len(outcome.rejected)}
    console.print(facts_table("Predicted", facts | places))
    for line in (*page.about_lines(about), NO_DEVICE):
        console.print(line, soft_wrap=True)
    if share > config.max_rejected_fraction:
        errors.print(f"{share:.2%} of the files have no prediction, {config.max_rejected_fraction:.2%} are allowed")
        return EXIT_NOT_PREDICTED
    return 0


if __name__ == "__main__":
    run_job(main)
