"""Make a data set of DICOM files: `python jobs/shard.py --source DICOM --output DATASET`.

Exit code 0: finished, now or before. 1: an error of the program. 2: the input or a flag cannot be used, or no file is a
slice. 3: finished but more files were faulty than --max-rejected-fraction allows. 130: interrupted; the same command
goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import tyro

from hemodist.job import filled, run_job
from shards.building.options import ShardConfig, check, check_memory, task_memory

if TYPE_CHECKING:
    from hemodist.dataset.manifest import Manifest
    from hemodist.storage.store import Store
    from shards.building import build
    from shards.packing.task import Task, TaskResult


def main() -> int:
    """Plan, run and report."""
    config = tyro.cli(ShardConfig, description=filled(__doc__))
    check(config)

    from hemodist.cluster.session import cluster, cpus_now, largest_memory, map_tasks
    from hemodist.reports.terminal import console, facts_table
    from shards.building import build

    todo = build.plan(config)
    if isinstance(todo, build.Finished):
        console.print(facts_table(f"{todo.output.uri} is finished already", summary := build.summary(todo.manifest)))
        if config.track and not config.dry_run:  # the run that finished it may have been killed before it could
            log(todo.output, todo.manifest, summary)
        return exit_code(todo.output, todo.manifest, config)
    console.print(facts_table("Source", todo.facts))
    if config.workers == 0:
        return work(todo, config, None, 1)
    with cluster(config.workers) as info:
        if not info.cpus:
            console.print("The cluster has no CPU for the work yet; waiting until a node joins.")
        if not config.dry_run:
            check_memory(config, largest_memory())
        # One in reserve for each at work. Where the cluster is not our own, nothing else keeps to --workers.
        factor = 1 if info.joined and config.workers else 2

        def in_flight() -> int:
            return factor * max(1, config.workers or cpus_now())  # a cluster grows and shrinks

        def mapper(run: Callable[[Task], TaskResult], tasks: Sequence[Task]) -> Iterator[TaskResult]:
            return (done for _, done in map_tasks(run, tasks, in_flight=in_flight, memory=task_memory(config)))

        return work(todo, config, mapper, config.workers or max(1, info.cpus))


def work(todo: build.BuildPlan, config: ShardConfig, mapper: build.Mapper | None, cpus: int) -> int:
    """Run the plan, or estimate what it would bring; returns the exit code."""
    from hemodist.cluster.prometheus import observed_shards
    from hemodist.reports.terminal import console, facts_table
    from shards.building import build, estimate
    from shards.building.progress import Progress

    if config.dry_run:
        console.print(facts_table("Dry run: nothing was written", estimate.estimate(todo, cpus)))
        return 0
    name = run_name(todo.output)
    with Progress(len(todo.tasks.files), len(todo.tasks), console) as progress:
        manifest, shared = build.run(todo, mapper, observed_shards(progress, name))
    console.print(facts_table(todo.output.uri, summary := build.summary(manifest, shared)))
    if config.track:
        log(todo.output, manifest, summary | progress.facts())
    return exit_code(todo.output, manifest, config)


def run_name(output: Store) -> str:
    """Name of the W&B run, and label of the gauges."""
    return f"shard-{output.root.rpartition('/')[2]}"


def log(output: Store, manifest: Manifest, summary: dict[str, Any]) -> None:
    """Log the summary as a W&B run; the same run, however often."""
    from hemodist.config.operation import TrackingConfig
    from hemodist.reports.terminal import errors
    from hemodist.reports.wandb_run import Tracker

    name, where = run_name(output), output.uri
    run = Tracker.start(TrackingConfig(), name=name, local=None, where=where, facts=manifest.config, warn=errors.print)
    run.finish(summary | {"rejected": manifest.rejected})


def exit_code(output: Store, manifest: Manifest, config: ShardConfig) -> int:
    """The table of what is no sample; 0, or 3 and a line where too many files were faulty.

    What an earlier run has finished is judged again: a cluster that tries a failed job again must not turn the failure
    into a success.

    Raises:
        ConfigError: no file is a slice.
    """
    from hemodist.errors import ConfigError
    from hemodist.reports.terminal import console, errors
    from shards.building import build
    from shards.inspect import rejections

    rejected = rejections.read(output)
    if rejected:
        console.print(rejections.table(rejected), soft_wrap=True)
    if not manifest.samples:
        raise ConfigError(f"no file is a slice, so {output.uri} is no data set: {rejections.in_short(rejected)}")
    faulty, allowed = rejections.faulty_fraction(manifest.samples, rejected), config.max_rejected_fraction
    if faulty > allowed:
        errors.print(
            f"{faulty:.2%} of the files were faulty, {allowed:.2%} are allowed (--max-rejected-fraction); "
            f"`python -m shards show --rejected {output.uri}` lists them",
            soft_wrap=True,
        )
    return build.EXIT_TOO_MANY_REJECTED if faulty > allowed else 0


if __name__ == "__main__":
    run_job(main, goes_on="the same command goes on after the shards that are finished")
