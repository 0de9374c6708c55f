"""The original study done right: every system on one patient-grouped split, from several seeds, in one report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hemodist.config.run import Run
from hemodist.errors import UserError
from hemodist.launch import run_folder
from hemodist.launch.many_runs import check_weights, is_finished, train_all, write_finished
from hemodist.launch.train import absolute
from hemodist.models.network import check_model
from hemodist.plan.prepare import Prepared, prepare
from hemodist.reports.terminal import console, facts_table
from hemodist.reports.wandb_run import resolve_mode
from hemodist.storage.store import Store, join
from hemodist.study import report
from hemodist.study.findings import Findings, compare
from hemodist.study.gather import gather
from hemodist.study.options import Study, recipe_of


def conduct(study: Study) -> Findings:
    """Train what is not trained yet, compare, write study.json and study.html, and show the table.

    Raises:
        UserError: before any worker starts, for whatever can be known by then; or after everything else is done, naming
            the runs that failed.
    """
    study.check()
    tracking = replace(study.tracking, mode=resolve_mode(study.tracking))  # a worker's node may know another key
    runs = [replace(absolute(run), tracking=tracking) for run in study.runs()]
    store = Store.open(study.output)
    store.check_writable()
    for run in runs[: len(study.recipes)]:  # other seeds differ in nothing that can be wrong
        common = prepare(run)
        check_model(run.model)
    left = [run for run in runs if not is_finished(run, common)]
    check_weights(left, "--weights")
    facts = _facts(common, runs[0]) | {"runs": f"{len(runs)}, of which {len(runs) - len(left)} are finished"}
    facts["learning rate of"] = study.rates()
    console.print(facts_table(f"Study of {len(study.recipes)} systems, seeds {study.seeds}", facts))
    for note in common.gaps(runs[0]):
        console.print(f"note: {note}", soft_wrap=True)

    failed = train_all(left, study.scaling, study.at_once, lambda run: write_finished(run, common))
    done = [_recorded(run) for run in runs if run.name not in failed]
    done.sort(key=lambda run: study.recipes.index(recipe_of(run)))  # as asked for; of a recipe, in the order of seeds
    if not done:
        raise UserError(f"all {len(runs)} runs failed; the first: {next(iter(failed.items()))}")
    if study.classical:
        console.print("reading window statistics for the classical methods")
    systems, labels = gather(done, common, classical=study.classical, replicates=study.replicates)
    found = compare(
        systems,
        labels,
        facts=_facts(common, runs[0]),
        part="test" if len(common.split.test) else "validation",
        config={recipe_of(run): run.to_dict() for run in reversed(done)},
        unlike=_unlike(done),
        failed=failed,
        synthetic=bool(common.dataset.manifest.config.get("synthetic")),
    )
    store.write("study.json", found.to_json())
    store.write("study.md", report.markdown(found).encode())
    store.write("study.html", report.page(found).encode())
    console.print(report.table(found))
    for question in found.questions:
        console.print(f"\n{question.asked} {question.answer}")
    console.print(f"\nreport: {store.uri}/study.html", soft_wrap=True)
    if failed:
        listed = "; ".join(f"{name}: {text}" for name, text in failed.items())
        raise UserError(f"{len(failed)} of {len(runs)} runs failed and are not in the table: {listed}")
    return found


def _recorded(run: Run) -> Run:
    """The run as it was made, read where it is now: a finished one may have been made with other flags."""
    store = Store.open(join(run.output, run.name))
    made = Run.from_dict(run_folder.result(store)["run"])
    return replace(made, name=run.name, output=run.output, data=run.data)


def _unlike(runs: Sequence[Run]) -> str:
    """Why the runs' times cannot be compared, as a sentence; empty where they can."""
    made = [vars(run.scaling) | {"compile": run.model.compile} for run in runs]
    parts = [
        f"{name} was {', '.join(dict.fromkeys(str(one[name]) for one in made))}"
        for name in ("workers", "min_workers", "cpus_per_worker", "device", "precision", "deterministic", "compile")
        if len({one[name] for one in made}) > 1
    ]
    return f"Not all runs were made alike ({'; '.join(parts)}), so their times are not compared." if parts else ""


def _facts(prepared: Prepared, run: Run) -> dict[str, Any]:
    facts = prepared.facts(run)
    names = ("data set", "data set digest", "samples", "split digest", "split", "groups")
    notes = prepared.gaps(run)
    return {name: facts[name] for name in names} | ({"notes": "; ".join(notes)} if notes else {})
