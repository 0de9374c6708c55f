"""The original study done right: every system on one patient-grouped split, from several seeds, in one report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hemodist.config.data import DataConfig
from hemodist.config.operation import ScalingConfig, TrackingConfig
from hemodist.config.recipes import RECIPES
from hemodist.config.run import Run, check
from hemodist.errors import ConfigError, UserError
from hemodist.launch.train import absolute
from hemodist.models.checkpoints import Checkpoints
from hemodist.models.network import check_model
from hemodist.plan.prepare import Prepared, check_resume, prepare
from hemodist.reports.terminal import console, facts_table
from hemodist.reports.wandb_run import resolve_mode
from hemodist.storage.store import Store, join
from hemodist.study import report
from hemodist.study.findings import Findings, compare
from hemodist.study.gather import gather, recipe_of, run_name
from hemodist.study.runs import RUNS, train_all
from hemodist.training.found_lr import RESULT as FOUND_LR
from hemodist.training.found_lr import with_found_lr

SYSTEMS = (
    "resnet18",
    "alexnet",
    "alexnet_lr_found",
    "resnet34",
    "resnet34_silu",
    "densenet161",
    "densenet161_cutmix",
)
"""What the original study compared, by recipe."""

RESULT = "result.json"
"""In a run's folder, written last: the run is finished, and this is what it was."""


@dataclass(frozen=True)
class Study:
    """Which systems are compared, on what, and where.

    Attributes:
        recipes: names of recipes.
        seeds: each recipe is trained once from each.
        output: folder or URI for the runs, study.json and study.html; the same one goes on where it stopped.
        epochs: passes over the training split, for every recipe; None for each recipe's own.
        image_size: side of the networks' input in pixels; None for each recipe's own.
        global_batch_size: samples a step; None for each recipe's own.
        at_once: most runs at a time; None for as many as the cluster has room for.
        classical: whether thresholding, naive Bayes and k-means are in the table.
        replicates: resamples of the patients for the intervals.
        data: the data set and its split, the same for all.
        scaling: of one run; 0 workers train one run after the other in this process, without Ray.
        tracking: Weights & Biases, a run each.
    """

    recipes: tuple[str, ...] = SYSTEMS
    seeds: tuple[int, ...] = (0, 1, 2)
    output: str = "study"
    epochs: int | None = None
    image_size: int | None = None
    global_batch_size: int | None = None
    at_once: int | None = None
    classical: bool = True
    replicates: int = 2000
    data: DataConfig = field(default_factory=DataConfig)
    scaling: ScalingConfig = field(default_factory=lambda: ScalingConfig(workers=1))
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def runs(self) -> list[Run]:
        """All runs, seed by seed, so that a study that is stopped has compared all systems from its first seeds.

        Raises:
            ConfigError: an unknown recipe, or nothing to compare.
        """
        offered = {recipe.__name__: recipe for recipe in RECIPES}
        unknown = [name for name in self.recipes if name not in offered]
        if unknown:
            raise ConfigError(f"recipes {', '.join(unknown)}: there are none of that name; use {', '.join(offered)}")
        if not self.recipes or not self.seeds:
            raise ConfigError("nothing to compare: give one or more recipes and one or more seeds")
        for name, values in (("recipes", self.recipes), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ConfigError(f"{name} {' '.join(map(str, values))}: give each one once")
        if self.at_once is not None and self.at_once < 1:
            raise ConfigError(f"at_once {self.at_once} would never start a run; use 1 or more")
        if not 100 <= self.replicates <= 100_000:
            raise ConfigError(f"replicates {self.replicates} is out of range; use 100 to 100000")
        return [self._run(offered[name](), name, seed) for seed in self.seeds for name in self.recipes]

    def _run(self, run: Run, recipe: str, seed: int) -> Run:
        batch, model, optim = run.batch, run.model, run.optim
        if self.global_batch_size is not None:
            batch = replace(batch, global_batch_size=self.global_batch_size)
        if self.image_size is not None:
            model = replace(model, image_size=self.image_size)
        if self.epochs is not None:
            optim = replace(optim, epochs=self.epochs)
        return replace(
            run,
            name=run_name(recipe, seed),
            output=join(self.output, RUNS),
            seed=seed,
            data=self.data,
            batch=batch,
            model=model,
            optim=optim,
            checkpoint=replace(run.checkpoint, keep=1),
            scaling=self.scaling,
            tracking=self.tracking,
        )


def conduct(study: Study) -> Findings:
    """Train what is not trained yet, compare, write study.json and study.html, and show the table.

    Raises:
        UserError: before any worker starts, for whatever can be known by then; or after everything else is done, naming
            the runs that failed.
    """
    if not study.data.dataset:
        raise ConfigError("no data set given; add --data.dataset PATH (made by `python jobs/shard.py`)")
    tracking = replace(study.tracking, mode=resolve_mode(study.tracking))  # a worker's node may know another key
    runs = [replace(absolute(run), tracking=tracking) for run in study.runs()]
    store = Store.open(study.output)
    store.check_writable()
    for run in runs:
        check(run)
    for run in runs[: len(study.recipes)]:  # other seeds differ in nothing that can be wrong
        common = prepare(run)
        check_model(run.model)
    left = [run for run in runs if not is_finished(run, common)]
    facts = _facts(common, runs[0]) | {"runs": f"{len(runs)}, of which {len(runs) - len(left)} are finished"}
    console.print(facts_table(f"Study of {len(study.recipes)} systems, seeds {study.seeds}", facts))

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
    saved = json.loads(store.read(RESULT)) if finished else Checkpoints(store, 1).newest_origin()
    if run.optim.lr == "found" and store.size(FOUND_LR) is not None:
        run = with_found_lr(run, prepared)
    if saved is not None:
        check_resume(saved, prepared, run, store.uri)
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
    made = Run.from_dict(json.loads(store.read(RESULT))["run"])
    return replace(made, output=run.output, data=run.data)


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
    return {name: facts[name] for name in ("data set", "data set digest", "samples", "split digest", "split", "groups")}
