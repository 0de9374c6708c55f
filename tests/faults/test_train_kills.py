"""Workers and nodes that are killed cost nothing but time."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray

from hemodist.bench.ray_nodes import ray_nodes
from hemodist.cluster.failures import Failures, WorkersLostError
from hemodist.cluster.ownership import OvertakenError, claim
from hemodist.cluster.session import cluster, no_process_left_behind
from hemodist.cluster.workers import run_on_workers
from hemodist.errors import UserError
from hemodist.events import AttemptStarted, Saved, Started, StepDone, WorkersLost
from hemodist.training.loop import Training, train
from hemodist.world import World
from tests.support.fault_runs import (
    Story,
    assert_no_step_is_lost_or_repeated,
    assert_same_outcome,
    at_step,
    kill_worker,
    newest_step,
    small_run,
    train_until,
)
from tests.support.ranks import run_ranks
from tests.support.wandb_log import steps_logged


def fit(run, story: Story):
    """Train under Ray Train, which must be up."""
    folder = f"{run.output}/{run.name}"
    return run_on_workers(train, run, run.scaling, gpu=False, tell=story, name=run.name, folder=folder)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_two_killed_workers_a_killed_node_and_a_drained_one_leave_no_trace_in_the_history_or_the_weights(tmp_path):
    epochs = 4  # the notice of the drain takes seconds to arrive, and steps must be left to make after it
    run = small_run(tmp_path, "disturbed", epochs=epochs, tracked=True)
    undisturbed = small_run(tmp_path, "undisturbed", epochs=epochs)
    run_ranks(train_until, 2, undisturbed)
    with no_process_left_behind(), ray_nodes(3) as cluster_nodes:

        def drain() -> None:
            cluster_nodes.add()
            cluster_nodes.drain(seconds=120)

        story = Story(
            (at_step(7), kill_worker),
            (at_step(22, starts=2), cluster_nodes.kill),
            (at_step(38, starts=3), lambda: kill_worker(1)),
            (at_step(52, starts=4), drain),
        )
        fit(run, story)
    assert ray_processes() == []
    assert story.done
    assert len(story.of(AttemptStarted)) == len(story.of(Started)) == 5
    assert_no_step_is_lost_or_repeated(run, newest_step(run))
    assert_same_outcome(run, undisturbed)
    assert_no_step_is_made_again_after_start(story, 3)  # the node is drained after it
    assert steps_logged(Path(run.output, run.name)) == list(range(1, newest_step(run) + 1))


@pytest.mark.timeout(5400)
@pytest.mark.parametrize(("kills", "epochs"), [(1, 4), pytest.param(30, 8, marks=pytest.mark.faults)])
def test_workers_killed_at_random_steps_leave_no_trace_in_the_history_or_the_weights(tmp_path, kills, epochs):
    run, undisturbed = (small_run(tmp_path, name, epochs=epochs) for name in ("disturbed", "undisturbed"))
    run_ranks(train_until, 2, undisturbed)
    rng = np.random.default_rng(5)
    steps = np.sort(rng.choice(np.arange(5, newest_step(undisturbed) - 40), kills, replace=False))
    story = Story(
        *(
            (at_step(int(step), starts=number), partial(kill_worker, int(rng.integers(2))))
            for number, step in enumerate(steps, 1)
        )
    )
    with cluster(cpus=2):
        fit(run, story)
    assert story.done
    assert len(story.of(AttemptStarted)) == kills + 1
    assert_no_step_is_lost_or_repeated(run, newest_step(run))
    assert_same_outcome(run, undisturbed)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_lost_node_shrinks_the_run_and_an_added_one_grows_it_with_the_same_sequence_of_batches(tmp_path):
    run = small_run(tmp_path, "elastic", epochs=400, tracked=True, min_workers=1, wait_seconds=2, grow_seconds=25)

    class EnoughError(Exception):
        pass

    def enough() -> None:
        raise EnoughError

    with no_process_left_behind(), ray_nodes(2) as cluster_nodes:

        def later(steps: int):
            """So many steps after the newest start."""
            return lambda story, event: isinstance(event, StepDone) and event.step >= newest_start(story) + steps

        def workers(count: int):
            return lambda story, event: isinstance(event, Started) and event.workers == count

        nothing = list  # only waits for its event
        story = Story(
            (workers(2), nothing),
            (later(20), cluster_nodes.kill),
            (workers(1), nothing),
            (later(20), cluster_nodes.add),
            (workers(2), nothing),
            (later(20), enough),
        )
        with pytest.raises(EnoughError):
            fit(run, story)
    assert [event.workers for event in story.of(Started)] == [2, 1, 2]
    assert_no_step_is_made_again_after_start(story, 1)  # the node is added after it
    assert_no_step_is_lost_or_repeated(run, newest_step(run))
    again = Training(run, World.alone(), lambda event: None)  # the run's end would have come after hours
    assert again.step == newest_step(run)
    assert again.run_log is not None
    again.run_log.close({})
    assert steps_logged(Path(run.output, run.name)) == list(range(1, again.step + 1))


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_run_begins_with_fewer_workers_where_others_hold_the_places_and_grows_when_they_go(tmp_path):
    run = small_run(tmp_path, "guest", epochs=400, min_workers=1, wait_seconds=2, grow_seconds=20)

    class EnoughError(Exception):
        pass

    def enough() -> None:
        raise EnoughError

    with no_process_left_behind(), ray_nodes(2):

        @ray.remote(num_cpus=1)
        class Host:
            def ready(self) -> bool:
                return True

        host = Host.remote()
        assert ray.get(host.ready.remote())

        def workers(count: int):
            return lambda story, event: isinstance(event, Started) and event.workers == count

        def five_later(story, event) -> bool:
            return isinstance(event, StepDone) and event.step >= newest_start(story) + 5

        story = Story(
            (workers(1), list), (at_step(20), partial(ray.kill, host)), (workers(2), list), (five_later, enough)
        )
        with pytest.raises(EnoughError):
            fit(run, story)
    assert [event.workers for event in story.of(Started)] == [1, 2]
    assert_no_step_is_made_again_after_start(story, 0)


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_second_driver_takes_the_run_over_and_the_first_one_ends_at_its_next_checkpoint(tmp_path):
    run = small_run(tmp_path, "twice", epochs=400)
    folder = f"{run.output}/{run.name}"
    story = Story((lambda story, event: event == Saved(10), lambda: claim(folder)))
    with cluster(cpus=2), pytest.raises(OvertakenError, match=f"another driver has gone on with {folder} since"):
        fit(run, story)
    assert story.done
    assert len(story.of(AttemptStarted)) == 1
    assert newest_step(run) < 100


def assert_no_step_is_made_again_after_start(story: Story, number: int) -> None:
    """From a start on, the steps that were made follow each other without gap and repeat, through later starts too."""
    (first, begun), *later = [(at, e.step) for at, e in enumerate(story.events) if isinstance(e, Started)][number:]
    steps = [event.step for event in story.events[first:] if isinstance(event, StepDone)]
    assert later
    assert steps == list(range(begun + 1, begun + 1 + len(steps)))
    assert all(begun < step < steps[-1] for _, step in later)


def ray_processes() -> list[str]:
    """Names of this process's descendants that are Ray's."""
    return [p.name() for p in psutil.Process().children(recursive=True) if "ray" in p.name() or "gcs" in p.name()]


def newest_start(story: Story) -> int:
    """The step from which the newest workers have gone on."""
    return story.of(Started)[-1].step


def lost(error: UserError | None = None) -> WorkersLost:
    return WorkersLost("worker 1 is gone", "Traceback", error)


def started(step: int) -> Started:
    return Started(step, total=100, workers=2)


def test_failures_in_a_row_end_the_run_and_a_new_checkpoint_starts_the_count_again():
    failures = Failures(2)
    for step in (0, 5, 10, 15, 20):  # any number, as long as each attempt gets further
        failures.hear(AttemptStarted(2))
        failures.hear(started(step))
        assert "1 of 2" in (failures.hear(lost()) or "")
        assert failures.hear(lost()) is None  # told twice, counted once
    failures.hear(AttemptStarted(2))
    failures.hear(started(20))
    assert "2 of 2" in (failures.hear(lost()) or "")
    failures.hear(AttemptStarted(2))
    with pytest.raises(WorkersLostError, match=r"failed 3 times .*worker 1 is gone.*max_failures"):
        failures.hear(lost())


def test_workers_that_are_lost_before_they_can_speak_up_end_the_run_too(monkeypatch):
    now = 100.0
    monkeypatch.setattr("hemodist.cluster.failures.time.monotonic", lambda: now)
    failures = Failures(2)
    assert "1 of 2" in (failures.hear(lost()) or "")
    for _ in range(30):  # the controller repeats it while it waits for the others of the group
        now += 1
        assert failures.hear(lost()) is None
    now += 12
    assert "2 of 2" in (failures.hear(lost()) or "")
    now += 12
    with pytest.raises(WorkersLostError, match="failed 3 times"):
        failures.hear(lost())


def test_a_transient_error_that_stays_is_shown_as_itself():
    class BusyError(UserError):
        transient = True

    failures = Failures(0)
    failures.hear(AttemptStarted(2))
    with pytest.raises(BusyError):
        failures.hear(lost(BusyError("store is busy")))
