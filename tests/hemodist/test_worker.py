"""What is checked before workers start: a fixed number of them, and a range."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hemodist.config import BatchConfig, DataConfig, Run, ScalingConfig, check
from hemodist.errors import ConfigError
from hemodist.worker import check_cpus, uses_gpu


def run_of(batch: BatchConfig, **scaling) -> Run:
    return Run(name="x", data=DataConfig(dataset="d"), batch=batch, scaling=ScalingConfig(**scaling))


def test_a_range_of_workers_needs_room_for_the_fewest_only():
    scaling = ScalingConfig(workers=4, min_workers=2, cpus_per_worker=3)
    check_cpus(scaling, 6)
    assert uses_gpu(scaling, 2)
    with pytest.raises(ConfigError, match=r"min_workers 2 x scaling.cpus_per_worker 3 = 6 CPUs, and there are 5"):
        check_cpus(scaling, 5)
    with pytest.raises(ConfigError, match=r"scaling.min_workers 2 need 2 GPUs, one each, and there are 1"):
        uses_gpu(scaling, 1)


def test_a_fixed_number_of_workers_needs_room_for_all():
    scaling = ScalingConfig(workers=4)
    with pytest.raises(ConfigError, match=r"scaling.workers 4 x .* = 4 CPUs, and there are 3"):
        check_cpus(scaling, 3)
    with pytest.raises(ConfigError, match=r"scaling.workers 4 need 4 GPUs, one each, and there are 3"):
        uses_gpu(scaling, 3)
    assert not uses_gpu(replace(scaling, device="cpu"), 3)
    assert not uses_gpu(scaling, 0)


def test_the_global_batch_must_fit_every_number_of_workers_in_the_range():
    check(run_of(BatchConfig(global_batch_size=64, mix_group=16), workers=4, min_workers=1))
    with pytest.raises(ConfigError, match="too few for 5 workers"):
        check(run_of(BatchConfig(global_batch_size=64, mix_group=16), workers=8, min_workers=1))
    accumulate = BatchConfig(global_batch_size=64, mix_group=16, accumulate=2)
    check(run_of(accumulate, workers=2, min_workers=1))
    with pytest.raises(ConfigError, match=r"batch.accumulate 2, but a worker reads as few as 1"):
        check(run_of(accumulate, workers=4, min_workers=1))


@pytest.mark.parametrize(("workers", "fewest"), [(2, 3), (2, 0), (0, 1)])
def test_a_range_that_is_none_is_refused(workers, fewest):
    with pytest.raises(ConfigError, match=f"min_workers {fewest} is out of range; use 1 to scaling.workers, {workers}"):
        check(run_of(BatchConfig(), workers=workers, min_workers=fewest))
