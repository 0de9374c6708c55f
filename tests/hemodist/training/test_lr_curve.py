"""What is read off curves that were drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hemodist.config.range_test import RangeTest
from hemodist.config.recipes import alexnet
from hemodist.training.lr_curve import bottom, read_off, smooth, steepest, tenth_of_minimum, valley

RATES = 10.0 ** np.arange(-9.0, 1.0)
"""Ten rates, 1e-9 to 1."""


def test_smoothing_keeps_a_constant_and_weighs_both_neighbours_alike():
    assert smooth([0.3] * 20, 3.0) == pytest.approx([0.3] * 20)
    peak = smooth([1.0] * 20 + [2.0] + [1.0] * 20, 2.0)
    assert peak == pytest.approx(peak[::-1])
    # The middle one has 1 of 1 + 2 (e^(-1/8) + e^(-4/8) + e^(-9/8) + e^(-2) + e^(-25/8) + e^(-9/2)) = 5.0081.
    assert peak[20] == pytest.approx(2 ** (1 / 5.0081), abs=1e-4)


@pytest.mark.parametrize(
    ("losses", "index"),
    [
        ([9, 8, 7, 6, 5, 4, 3, 2, 1, 10], 3),  # nine steps down to step 8: 8 - 9 + 3 + 1
        ([9, 9, 9, 8, 7, 6, 5, 4, 9, 9], 4),  # six steps, 9 to 4, down to step 7: 7 - 6 + 2 + 1
        ([1, 5, 4, 6, 3, 2, 9, 9, 9, 9], 2),  # 5, 4, 3, 2 down to step 5, 6 is none of them: 5 - 4 + 1 + 0
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0),  # no fall: one step, at step 0; nothing lies before it
    ],
)
def test_the_valley_is_half_way_through_the_longest_fall(losses, index):
    assert valley(RATES, np.array(losses, float)) == RATES[index]


def test_the_steepest_is_where_the_loss_falls_most_over_the_logarithm_of_the_rate():
    losses = np.array([9.0, 8.9, 8.0, 5.0, 4.0, 3.9, 3.9, 4.5, 20.0, 5.0])
    assert steepest(RATES[:9], losses[:9]) == RATES[2]  # 3 from step 2 to step 3
    uneven = np.array([1.0, 10.0, 1e4, 1e5])  # 6 over three decades is less than 3 over one
    assert steepest(uneven, np.array([10.0, 7.0, 1.0, 1.0])) == 1.0


def test_a_tenth_of_the_minimum_is_a_tenth_of_the_rate_of_the_lowest_loss():
    assert tenth_of_minimum(RATES, np.array([9, 8, 7, 6, 5, 2, 3, 9, 9, 9.0])) == pytest.approx(RATES[5] / 10)


def test_the_bottom_is_where_at_most_three_tenths_of_the_fall_are_missing():
    logs = np.array([1.0] * 10 + [0.8, 0.31, 0.29, 0.1, 0.0, 0.2, 0.29, 0.5, 0.1])
    assert bottom(np.exp(logs)) == (12, 16)


STEPS = 100
TEST = RangeTest(alexnet(), lowest=1e-6, highest=1.0, steps=STEPS, smoothing=1.0)
SWEPT = np.geomspace(1e-6, 1.0, STEPS).tolist()


def curve(*corners: tuple[int, float]) -> list[float]:
    """Losses of 100 steps, straight between corners (step, loss) on a logarithmic axis."""
    return np.exp(np.interp(np.arange(STEPS), [s for s, _ in corners], [np.log(v) for _, v in corners])).tolist()


def test_a_curve_that_falls_and_rises_is_read():
    """Flat to step 40, down to a tenth at step 70, flat to 80, and up: its bottom is where log(loss) has at most 0.3 of
    the fall left, from step 61 to step 83 (of 90, where all of it is left)."""
    reading = read_off(TEST, SWEPT, curve((0, 1.0), (40, 1.0), (70, 0.1), (80, 0.1), (90, 1.0), (99, 3.0)))
    assert not reading.failed
    assert reading.lr == pytest.approx(np.sqrt(SWEPT[61] * SWEPT[83]), rel=0.1)
    assert SWEPT[48] < reading.valley < SWEPT[62]  # half-way from 40 to 70
    assert (
        SWEPT[40] <= reading.steepest <= SWEPT[44]
    )  # straight in the logarithm: the fall of the loss is fastest at once
    assert SWEPT[70] / 10 <= reading.tenth * 1.0001 <= SWEPT[80] / 10 * 1.001


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        (curve((0, 1.0), (30, 1.0), (99, 0.1)), "lowest at the last of 100 steps"),
        (curve((0, 1.0), (30, 1.0), (70, 0.1), (75, 0.1), (99, 0.102)), "did not rise again within 100 steps"),
        (curve((0, 1.0), (99, 3.0)), "the loss did not fall between learning rates 1e-06 and 1"),
        ([0.7] * STEPS, "the loss did not fall"),
        (curve((0, 1.0), (5, 0.5), (99, 3.0)), "it was lowest after 6 of 100 steps"),
        ([], "it was lowest after 0 of 0 steps"),
        ([1.0, 0.9, 0.8], "it was lowest after 2 of 3 steps"),
    ],
)
def test_a_curve_that_never_fell_or_never_rose_gives_no_rate_and_asks_for_more_steps(losses, said):
    reading = read_off(TEST, SWEPT[: len(losses)], losses)
    assert said in reading.failed
    assert "use more steps, such as --steps 200" in reading.failed
    assert (reading.lr, reading.valley, reading.steepest, reading.tenth) == (None, None, None, None)


def test_a_loss_that_has_diverged_has_risen():
    """It ended the test at three times its lowest, which out of a deep bottom is less than the 0.3 of its fall."""
    losses = curve((0, 1.0), (30, 1.0), (70, 0.001), (80, 0.001), (99, 0.009))[:91]
    assert bottom(smooth(losses, TEST.smoothing))[1] == 90
    assert not read_off(TEST, SWEPT[:91], losses).failed


def test_the_first_tenth_and_the_last_five_steps_do_not_count_for_the_suggestions():
    losses = curve((0, 9.0), (9, 1.0), (40, 1.0), (70, 0.5), (80, 0.5), (99, 30.0))
    reading = read_off(TEST, SWEPT, losses)
    assert not reading.failed
    assert reading.steepest >= SWEPT[10]  # the fall from 9 to 1 is within the first tenth
