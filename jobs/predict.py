"""Predict scans: `python jobs/predict.py RUN SOURCE --output submission.csv`.

Exit code 0: every slice has a prediction. 1: an error of the program. 2: the input or a flag cannot be used, or no file
is a slice. 3: done, but a larger share of the files than --max-rejected-fraction is faulty, each with its reason in
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
    from hemodist.dataset.labels import LABELS
    from hemodist.dataset.manifest import MANIFEST
    from hemodist.errors import ConfigError
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
    from hemodist.reports.verdict import FOR_RESEARCH
    from hemodist.storage.store import Store
    from shards.building import for_prediction
    from shards.inspect import rejections

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
    shown = page.page(outcome, pictures, about, lacking)
    places = submission.write(config.output, outcome, members[0].prevalence, shown, about)
    facts = {"slices predicted": len(outcome.keys), "files without a prediction": len(outcome.rejected)}
    if unknown := [name for i, name in enumerate(LABELS) if not any(member.learned[i] for member in members)]:
        places["not learned, so blank; a constant in submission.csv"] = ", ".join(unknown)
    console.print(facts_table("Predicted", facts | places))
    for line in (*page.about_lines(about), FOR_RESEARCH):
        console.print(line, soft_wrap=True)
    if outcome.rejected:
        console.print(rejections.table(outcome.rejected), soft_wrap=True)
    faulty, allowed = rejections.faulty_fraction(len(outcome.keys), outcome.rejected), config.max_rejected_fraction
    if faulty > allowed:
        errors.print(f"{faulty:.2%} of the files are faulty, {allowed:.2%} are allowed (--max-rejected-fraction)")
        return EXIT_NOT_PREDICTED
    if not outcome.keys and not faulty:
        raise ConfigError(f"no file is a slice, so nothing is predicted: {rejections.in_short(outcome.rejected)}")
    return 0


if __name__ == "__main__":
    run_job(main)
