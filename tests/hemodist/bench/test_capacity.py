from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hemodist.bench.capacity import GPUS, SLICES, Rates, batch_of, page, training

PAGE = Path(__file__).parents[3] / "k8s" / "CAPACITY.md"


def test_the_page_is_what_the_rates_give():
    assert PAGE.read_text() == page()


def test_a_rate_that_is_measured_anew_changes_the_page():
    assert page(replace(Rates(), train_gpu=1000.0)) != page()


def test_every_rate_says_where_it_is_from():
    text = page()
    for name, described in Rates.__dataclass_fields__.items():
        assert f"`{name}`" in text
        assert described.metadata["unit"]
        assert described.metadata["source"]


def test_one_gpu_takes_its_slices_at_its_rate():
    rates = Rates(start=0, epochs=1, valid_share=0.0, store_node=1e15, store_total=1e15, decode_gpu=1e9)
    run = training(SLICES[1], 1, rates)
    assert run.hours * 3600 == pytest.approx(SLICES[1] / rates.train_gpu)
    assert run.bottleneck == "computing"


def test_more_gpus_are_never_slower_but_for_the_network_between_nodes():
    ideal = replace(Rates(), network=1e15, store_node=1e15, store_total=1e15)
    hours = [training(SLICES[1], gpus, ideal).hours for gpus in GPUS]
    assert hours == sorted(hours, reverse=True)


def test_each_node_fetches_the_whole_set_once():
    one, many = (training(SLICES[1], gpus, Rates()) for gpus in (8, 512))
    assert many.egress == 64 * one.egress
    assert many.requests == 64 * one.requests


@pytest.mark.parametrize("gpus", GPUS)
def test_the_batch_can_be_dealt_out_in_mix_groups(gpus):
    from hemodist.config.shares import check_batch

    check_batch(batch_of(gpus), 8, gpus)
