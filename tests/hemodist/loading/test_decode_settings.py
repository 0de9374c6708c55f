"""What a run's configuration makes of decoding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hemodist.config.data import DataConfig
from hemodist.config.operation import ScalingConfig
from hemodist.config.run import Run
from hemodist.loading.decode_settings import DecodeSettings


def test_one_decoder_takes_every_image_where_a_run_is_deterministic():
    run = Run("x", data=DataConfig(hw_decoder_load=0.7))
    assert DecodeSettings.of_run(run, "cuda").hw_decoder_load == 0.7
    assert DecodeSettings.of_run(replace(run, scaling=ScalingConfig(deterministic=True)), "cuda").hw_decoder_load == 0


@pytest.mark.parametrize(("cpus", "threads"), [(1, 1), (10, 8), (96, 16)])
def test_threads_on_a_gpu_follow_the_cpus_of_the_worker(cpus, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: cpus)  # OMP_NUM_THREADS, which Ray sets
    assert DecodeSettings.of_run(Run("x"), "cuda:0").threads == threads
    assert DecodeSettings.of_run(Run("x"), "cpu").threads == 4
    assert DecodeSettings.of_run(Run("x", data=DataConfig(decode_threads=3)), "cuda").threads == 3
