"""The flags of `jobs/study.py`: which systems are compared, and the runs that follow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

from hemodist.config.batch_rule import follow_batch, lr_line
from hemodist.config.data import DataConfig
from hemodist.config.fields import Often, Range, check_ranges
from hemodist.config.operation import ScalingConfig, TrackingConfig
from hemodist.config.recipes import RECIPES
from hemodist.config.run import Run, check
from hemodist.errors import ConfigError

RUNS = "runs"
"""Folder of the runs, below the study's."""

_SEED_MARK = "-s"

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


def run_name(recipe: str, seed: int) -> str:
    """Name of the run of a recipe from a seed.

    >>> run_name("resnet18", 2)
    'resnet18-s2'
    """
    return f"{recipe}{_SEED_MARK}{seed}"


def recipe_of(run: Run) -> str:
    """The recipe that `run_name` named the run after."""
    return run.name.rpartition(_SEED_MARK)[0]


@dataclass(frozen=True)
class Study:
    """Which systems are compared, on what, and where."""

    recipes: Annotated[tuple[str, ...], Often()] = SYSTEMS
    """Names of recipes."""

    seeds: Annotated[tuple[int, ...], Often()] = (0, 1, 2)
    """Each recipe is trained once from each."""

    output: Annotated[str, Often()] = "study"
    """Folder or URI for the runs, study.json and study.html; the same one goes on where it stopped."""

    epochs: Annotated[int | None, Often()] = None
    """Passes over the training split, for every recipe; None for each recipe's own."""

    image_size: Annotated[int | None, Often()] = None
    """Side of the networks' input in pixels; None for each recipe's own."""

    global_batch_size: Annotated[int | None, Often()] = None
    """Samples a step; None for each recipe's own. A recipe's learning rate follows it as in `jobs/train.py`."""

    weights: Annotated[str | None, Often()] = None
    """What every recipe starts from, as `model.weights` of a run says; None for each recipe's own."""

    at_once: Annotated[int | None, Range(1, 65_536), Often()] = None
    """Most runs at a time; None for as many as the cluster has free slots for."""

    classical: bool = True
    """Whether thresholding, naive Bayes and k-means are in the table."""

    replicates: Annotated[int, Range(100, 100_000)] = 2000
    """Resamples of the patients for the intervals."""

    data: DataConfig = field(default_factory=DataConfig)
    """The data set and its split, the same for all."""

    scaling: ScalingConfig = field(default_factory=lambda: ScalingConfig(workers=1))
    """Of one run; 0 workers train one run after the other in this process, without Ray."""

    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Weights & Biases, a run each."""

    def check(self) -> None:
        """Check everything that can be checked without the data set and the machine.

        Raises:
            ConfigError: naming the field, its value and what works.
        """
        for run in self.runs():
            check(run)

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
        check_ranges(self)
        return [self._run(offered[name](), name, seed) for seed in self.seeds for name in self.recipes]

    def rates(self) -> dict[str, str]:
        """The learning rate of each recipe, and where it is from."""
        offered = {recipe.__name__: recipe for recipe in RECIPES}
        return {name: lr_line(*self._followed(offered[name]())) for name in self.recipes}

    def _followed(self, run: Run) -> tuple[Run, str]:
        """A recipe's run with what holds for all, and where its learning rate is from."""
        batch, model, optim = run.batch, run.model, run.optim
        if self.global_batch_size is not None:
            batch = replace(batch, global_batch_size=self.global_batch_size)
        if self.image_size is not None:
            model = replace(model, image_size=self.image_size)
        if self.weights is not None:
            model = replace(model, weights=self.weights)
        if self.epochs is not None:
            optim = replace(optim, epochs=self.epochs)
        return follow_batch(replace(run, batch=batch, model=model, optim=optim), run)

    def _run(self, run: Run, recipe: str, seed: int) -> Run:
        from hemodist.storage.store import join

        return replace(
            self._followed(run)[0],
            name=run_name(recipe, seed),
            output=join(self.output, RUNS),
            seed=seed,
            data=self.data,
            checkpoint=replace(run.checkpoint, keep=1),
            scaling=self.scaling,
            tracking=self.tracking,
        )
