"""What a step costs, in operations and in seconds."""

from __future__ import annotations

import pytest

from hemodist.config.recipes import demo
from hemodist.config.training import ModelConfig
from hemodist.models.flops import peak_flops, training_flops
from hemodist.training import throughput
from hemodist.training.throughput import Throughput
from hemodist.world import World


def test_operations_are_those_of_the_papers():
    # He et al., 2016: 1.8e9 multiply-adds at 224 pixels; Liu et al., 2022: 8.7e9, of them depthwise convolutions.
    assert training_flops(ModelConfig(name="resnet18", image_size=224)) == pytest.approx(3 * 2 * 1.8e9, rel=0.02)
    assert training_flops(ModelConfig(name="convnext_small", image_size=224)) == pytest.approx(3 * 2 * 8.7e9, rel=0.02)


def test_an_unknown_device_has_no_peak():
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA A10G") is None  # another chip than the A10


def test_rates_and_the_share_of_waiting_are_those_since_the_last_reading(monkeypatch):
    now = [7.0]
    monkeypatch.setattr(throughput.time, "monotonic", lambda: now[0])
    meter = Throughput(demo(), World.alone())
    meter.restart(10)
    with meter.waiting("data"):
        now[0] += 0.5
    with meter.computing():  # as a CPU does it
        now[0] += 0.25
    with meter.waiting("device"):
        now[0] += 0.25
    now[0] += 1.0
    figures = meter.read(14)
    assert figures["images_per_s"] == 4 * 32 / 2.0
    assert figures["data_wait_share"] == figures["device_share"] == 0.25
    assert figures["communication_share"] == 0
    assert "mfu" not in figures  # of a CPU nobody knows the peak
    assert meter.read(14)["images_per_s"] == 0
    with meter.computing():
        now[0] += 3.0
    meter.exchanged(1.0)  # of the three
    now[0] += 3.0
    figures = meter.read(20)
    assert (figures["device_share"], figures["communication_share"]) == (2 / 6, 1 / 6)
    # Of all eight seconds: half data; half, and two, of the device; one of communication; the rest is the host's.
    assert meter.in_words() == "data 6%, host 50%, device 31%, communication 12%"


def test_nothing_is_said_of_time_that_nobody_has_measured():
    assert Throughput(demo(), World.alone()).in_words() == ""
