"""The original study done right: every system on one patient-grouped split, from several seeds, in one report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hemodist.config.run import Run
from hemodist.errors import ConfigError, UserError
from hemodist.launch.train import absolute
from hemodist.models.checkpoints import Checkpoints
from hemodist.models.network import check_model, has_batch_norm
from hemodist.models.pretrained import check_pretrained
from hemodist.plan.prepare import Prepared, check_choice, check_resume, prepare
from hemodist.reports.terminal import console, facts_table
from hemodist.reports.wandb_run import resolve_mode
from hemodist.storage.store import Store, join
from hemodist.study import report, run_folder
from hemodist.study.findings import Findings, compare
from hemodist.study.gather import gather
from hemodist.study.options import Study, recipe_of
from hemodist.study.run_folder import RESULT
from hemodist.study.runs import train_all
from hemodist.training.found_lr import RESULT as FOUND_LR
from hemodist.training.found_lr import with_found_lr


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
    for model in dict.fromkeys(run.model for run in left):
        check_pretrained(model, "--weights")
    facts = _facts(common, runs[0]) | {"runs": f"{len(runs)}, of which {len(runs) - len(left)} are finished"}
    facts["learning rate of"] = study.rates()
    console.print(facts_table(f"Study of {len(study.recipes)} systems, seeds {study.seeds}", facts))
    for note in common.gaps(runs[0]):
        console.print(f"note: {note}", soft_wrap=True)

    def finished(run: Run) -> None:
        state = {"dataset": common.dataset.manifest.digest, "split": common.split.digest}
        record = {"run": with_found_lr(run, common).to_dict(), "state": state}
        Store.open(join(run.output, run.name)).write(RESULT, (json.dumps(record, indent=2) + "\n").encode())

    failed = train_all(left, study.scaling, study.at_once, finished)
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


def is_finished(run: Run, prepared: Prepared) -> bool:
    """Whether a run has been trained and scored.

    Raises:
        ConfigError: its folder holds another run of that name.
    """
    store = Store.open(join(run.output, run.name))
    finished = store.size(RESULT) is not None
    saved = run_folder.result(store) if finished else Checkpoints(store, 1).newest_origin()
    if run.optim.lr == "found" and store.size(FOUND_LR) is not None:
        run = with_found_lr(run, prepared)
    if saved is None:
        check_choice(prepared, run)
    else:
        check_resume(saved, prepared, run, store.uri, batch_norm=not finished and has_batch_norm(run.model))
    if saved is not None and finished:  # a run that goes on has its weights from a checkpoint, this one its scores
        weights = Run.from_dict(saved["run"]).model.weights
        if weights != run.model.weights:
            raise ConfigError(
                f"{store.uri} holds a finished run: model.weights was {weights}, is {run.model.weights}; use another "
                "--output, or what it had"
            )
    return finished


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
