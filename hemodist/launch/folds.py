"""A k-fold run as the driver sees it: a run for each fold, then scores of all slices by networks new to them."""

from __future__ import annotations

from dataclasses import replace

from hemodist.config.batch_rule import lr_line
from hemodist.config.run import Run, runs_of_folds
from hemodist.errors import ConfigError, UserError
from hemodist.launch.evaluate import evaluate
from hemodist.launch.many_runs import check_weights, is_finished, train_all, write_finished
from hemodist.launch.train import absolute
from hemodist.models.checkpoints import Checkpoints
from hemodist.models.fold_runs import write_names
from hemodist.models.network import check_model
from hemodist.plan.prepare import prepare
from hemodist.reports.terminal import console, facts_table
from hemodist.reports.wandb_run import resolve_mode
from hemodist.scoring.options import Options, ScoringRequest
from hemodist.scoring.write_results import Results
from hemodist.storage.store import Store, join


def train_folds(run: Run, lr_from: str = "") -> Results:
    """Train what is not trained yet, as many folds at a time as there is room for, and score all slices out of fold.

    Args:
        run: the configuration; its `data.valid_fold` does not count.
        lr_from: where its learning rate is from, as `follow_batch` says.

    Raises:
        UserError: before any worker starts, for whatever can be known by then; or after all other folds are trained,
            naming those that failed.
    """
    store = Store.open(join(run.output, run.name))
    store.check_writable()
    if Checkpoints(store, 1).newest_origin() is not None:
        raise ConfigError(f"{store.uri} holds a run of one fold; give the k-fold run another --name")
    tracking = replace(run.tracking, mode=resolve_mode(run.tracking))  # a worker's node may know another key
    runs = [replace(absolute(one), tracking=tracking) for one in runs_of_folds(run)]
    check_model(run.model)
    left, notes = list[Run](), dict[str, str]()
    for one in runs:
        prepared = prepare(one)
        for note in prepared.gaps(one):
            notes.setdefault(note, one.name)
        if not is_finished(one, prepared):
            left.append(one)
    check_weights(left)
    facts = prepared.facts(runs[-1])
    named = ("data set", "data set digest", "samples", "fold", "groups", "samples a step")
    done = f"{len(runs)}, of which {len(runs) - len(left)} are trained"
    shown = {name: facts[name] for name in named}
    shown |= {"learning rate": lr_line(run, lr_from), "folds": done, "output": store.uri}
    console.print(facts_table(f"k-fold run {run.name}", shown))
    for note, name in notes.items():
        console.print(f"note: {name}: {note}", soft_wrap=True)
    write_names(store, [one.name for one in runs])
    try:
        failed = train_all(left, run.scaling, None, lambda one: write_finished(one, prepare(one)))
    except (KeyboardInterrupt, SystemExit):  # the latter is SIGTERM
        console.print("interrupted: the same command goes on; folds that are finished are not trained again")
        raise
    if failed:
        listed = "; ".join(f"{name}: {text}" for name, text in failed.items())
        raise UserError(f"{len(failed)} of {len(runs)} folds failed ({listed}); the same command trains them again")
    # Pictures of the worst slices are one network's; `jobs/evaluate.py` draws them of a fold's run.
    return evaluate(ScoringRequest(store.uri, runs[0].data.dataset, store.uri, Options(worst=0)), run.scaling)
