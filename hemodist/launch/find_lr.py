"""A learning rate range test as the driver sees it: every check first, then the ranks, then the rate that was found."""

from __future__ import annotations

from dataclasses import replace

from hemodist.config.range_test import RangeTest, check
from hemodist.errors import ConfigError
from hemodist.launch.ranks import run_ranks
from hemodist.launch.train import absolute
from hemodist.models.network import check_model
from hemodist.models.pretrained import check_pretrained
from hemodist.plan.prepare import prepare
from hemodist.reports.terminal import console, facts_table
from hemodist.reports.wandb_run import resolve_mode
from hemodist.storage.store import Store, join
from hemodist.training.found_lr import FOLDER, PLOT, FoundLr
from hemodist.training.lr_range_test import run_range_test


def find_lr(test: RangeTest) -> FoundLr:
    """Check the run, make the test on the ranks that it asks for, and show the learning rate that was found.

    Raises:
        UserError: before any worker starts, for whatever can be known by then; after the test, where it says nothing.
    """
    check(test)
    run = replace(test.run, optim=replace(test.run.optim, lr=test.lowest))
    prepare(run)
    check_model(run.model)
    store = Store.open(join(run.output, run.name))
    store.check_writable()
    check_pretrained(run.model)
    run = absolute(replace(run, tracking=replace(run.tracking, mode=resolve_mode(run.tracking))))
    found: FoundLr = run_ranks(
        run_range_test, replace(test, run=run), run.scaling, name=f"find-lr-{run.name}", folder=join(store.uri, FOLDER)
    )
    console.print(f"plot: {store.uri}/{PLOT}", soft_wrap=True)
    read = found.reading
    if read.failed:
        raise ConfigError(f"no learning rate was found: {read.failed}")
    named = {"optim.lr found": read.lr, "valley": read.valley, "steepest": read.steepest, "minimum / 10": read.tenth}
    facts = {name: f"{lr:.3g}" for name, lr in named.items()} | {"steps made": str(len(found.rates))}
    console.print(facts_table(f"Learning rate of {run.name}", facts))
    return found
