"""Training as the driver sees it: every check of the run first, then the ranks, then the scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hemodist.config.batch_rule import lr_line
from hemodist.config.run import Run
from hemodist.errors import ConfigError
from hemodist.launch.ranks import run_ranks
from hemodist.launch.results import show_results
from hemodist.models.checkpoints import Checkpoints
from hemodist.models.fold_runs import is_fold_runs
from hemodist.models.network import check_model, has_batch_norm
from hemodist.models.pretrained import check_pretrained
from hemodist.plan.prepare import check_choice, check_resume, prepare
from hemodist.reports.terminal import TrainingView, console, facts_table
from hemodist.reports.wandb_run import resolve_mode
from hemodist.scoring.write_results import Results
from hemodist.storage.store import Store, StoreError, join
from hemodist.training.found_lr import with_found_lr
from hemodist.training.loop import train as train_on_ranks


def train(run: Run, lr_from: str = "") -> Results:
    """Check a run, print what follows from it, train it, and show the scores.

    Args:
        run: the configuration; `scaling.workers` 0 trains in this process, without Ray.
        lr_from: where its learning rate is from, as `follow_batch` says.

    Raises:
        UserError: before any worker starts, for whatever can be known by then.
    """
    prepared = prepare(run)
    check_model(run.model)
    store = Store.open(join(run.output, run.name))
    store.check_writable()
    if is_fold_runs(store.uri):
        raise ConfigError(f"{store.uri} holds a k-fold run; give this one another --name")
    run = with_found_lr(absolute(run), prepared)
    origin = Checkpoints(store, run.checkpoint.keep).newest_origin()
    if origin is None:
        check_choice(prepared, run)
        check_pretrained(run.model)
    else:
        check_resume(origin, prepared, run, store.uri, batch_norm=has_batch_norm(run.model))
    mode = resolve_mode(run.tracking)
    facts = prepared.facts(run) | {
        "learning rate": lr_line(run, lr_from),
        "output": store.uri,
        "Weights & Biases": mode,
    }
    console.print(facts_table(f"Run {run.name}", facts))
    for note in prepared.gaps(run):
        console.print(f"note: {note}", soft_wrap=True)
    if run.tracking.mode == "auto" and mode == "offline":
        console.print("W&B: WANDB_API_KEY is not set, so the run is logged offline; `wandb sync` uploads it later.")
    run = replace(run, tracking=replace(run.tracking, mode=mode))  # a worker's node may know another key
    view = TrainingView()
    try:
        results: Results = run_ranks(train_on_ranks, run, run.scaling, name=run.name, folder=store.uri, view=view)
    except (KeyboardInterrupt, SystemExit):  # the latter is SIGTERM
        console.print(what_is_kept(store, view.step), soft_wrap=True)
        raise
    show_results(results)
    return results


def what_is_kept(store: Store, step: int) -> str:
    """What of an interrupted run is there, and what is lost.

    Args:
        store: the run's folder.
        step: the last one that was heard of.
    """
    try:
        records = Checkpoints(store, keep=1).records()
    except StoreError as error:
        return f"interrupted; which checkpoints there are cannot be read ({error})"
    if not records:
        return f"interrupted at step {step:,} or soon after, before the first checkpoint: the same command begins anew"
    kept = records[-1].step
    lost = f"at least {step - kept:,} steps are lost, and made again" if step > kept else "few steps or none are lost"
    return f"interrupted; the newest checkpoint is of step {kept:,}: the same command goes on from there; {lost}"


def absolute(run: Run) -> Run:
    """The same run with absolute paths, since workers have another working directory."""
    data = replace(
        run.data, dataset=Store.open(run.data.dataset).uri, cache=str(Path(run.data.cache).expanduser().resolve())
    )
    weights = run.model.weights
    if Path(weights).expanduser().is_file():  # not the name of one of torchvision's
        weights = str(Path(weights).expanduser().resolve())
    return replace(run, output=Store.open(run.output).uri, data=data, model=replace(run.model, weights=weights))
