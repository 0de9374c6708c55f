"""Which labels are looked at first: those that neighbours, network or the other labels of the picture speak against."""

from __future__ import annotations

import numpy as np

from hemodist.dataset.labels import LABELS, UNKNOWN, contradictory
from hemodist.metrics.label_review import by_neighbours, suspicion

SERIES, LENGTH = 30, 12


def heads(rng: np.random.Generator) -> np.ndarray:
    """Labels of series in every other of which six neighbouring slices bleed, int8 [n, 6]."""
    labels = np.zeros((SERIES, LENGTH, len(LABELS)), np.int8)
    for number in range(0, SERIES, 2):
        start = rng.integers(0, LENGTH - 6)
        labels[number, start : start + 6, [0, 1 + number % 5]] = 1
    return labels.reshape(-1, len(LABELS))


def looked_at(labels: np.ndarray, network: np.ndarray, **changes):
    n = len(labels)
    given = {
        "series": np.repeat(np.arange(SERIES), LENGTH),
        "position": np.tile(np.arange(LENGTH, dtype=float), SERIES),
        "image": np.arange(n),
        "used": np.ones(n, bool),
    }
    return suspicion(network, labels, **(given | changes))


def no_network(labels: np.ndarray) -> np.ndarray:
    return np.full(labels.shape, np.nan)


def test_a_label_unlike_both_neighbours_is_the_most_suspicious_without_any_network():
    labels = heads(np.random.default_rng(0))
    inside = int(np.flatnonzero(labels[:, 0] == 1)[3])
    labels[inside] = 0
    found = looked_at(labels, no_network(labels))
    assert found.order(np.arange(len(labels)))[0] == inside


def test_a_network_that_is_sure_of_the_other_answer_makes_a_label_suspicious_without_any_neighbour():
    labels = heads(np.random.default_rng(0))
    network = np.where(labels == 1, 0.8, 0.1)
    wrong = int(np.flatnonzero(labels[:, 0] == 1)[0])
    network[wrong] = 0.05
    alone = np.full(len(labels), -1)
    found = looked_at(labels, network, series=alone)
    assert (found.neighbours == -1).all()
    assert found.order(np.arange(len(labels)))[0] == wrong


def test_a_network_that_seldom_says_yes_to_a_rare_label_does_not_make_all_its_positives_suspicious():
    labels = heads(np.random.default_rng(0))
    # It knows the label, but gives positives 0.2 and negatives 0.02: at 0.5 every positive would look wrong.
    network = np.where(labels == 1, 0.2, 0.02)
    wrong = np.flatnonzero(labels[:, 0] == 0)[:3]
    network[wrong, 0] = 0.2
    found = looked_at(labels, network, series=np.full(len(labels), -1))
    positive = labels[:, 0] == 1
    assert found.wrong[wrong, 0].min() > found.wrong[positive, 0].max()


def test_conflicts_of_one_image_come_first_then_contradictions_of_one_slice():
    labels = heads(np.random.default_rng(1))
    image = np.arange(len(labels))
    bleeding = int(np.flatnonzero(labels[:, 0] == 1)[0])
    clean = int(np.flatnonzero(labels[:, 0] == 0)[-1])
    image[clean] = image[bleeding]
    odd = int(np.flatnonzero(labels[:, 0] == 0)[5])
    labels[odd, 2] = 1
    found = looked_at(labels, no_network(labels), image=image)
    order = found.order(np.arange(len(labels))).tolist()
    assert set(order[:2]) == {bleeding, clean}
    assert order[2] == odd


def test_an_unknown_label_is_never_suspicious_and_a_second_copy_is_nobodys_neighbour():
    labels = heads(np.random.default_rng(2))
    labels[10] = UNKNOWN
    used = np.ones(len(labels), bool)
    used[5] = False
    found = looked_at(labels, no_network(labels), used=used)
    assert np.isnan(found.wrong[10]).all()
    assert found.neighbours[4].tolist() == [3, 6]
    assert found.neighbours[5].tolist() == [-1, -1]


def test_what_neighbours_say_is_counted_without_the_slice_itself():
    labels = np.zeros((3, len(LABELS)), np.int8)
    labels[1] = 1
    neighbours = np.array([[-1, 1], [0, 2], [1, -1]])
    found = by_neighbours(labels, neighbours)
    # Over all labels: 6 positive of 18, so 1 / 3. The middle slice alone has two negative neighbours, of whose labels
    # the five others are positive: (5 + 4 / 3) / (5 + 4). Its own label has no other such slice, so that is all.
    assert np.allclose(found[1], (5 + 4 / 3) / 9)
    # The outer two have positive neighbours: of their 12 labels the 11 others are negative, (0 + 4 / 3) / (11 + 4);
    # of their own label the other one is negative.
    of_all = (4 / 3) / 15
    assert np.allclose(found[[0, 2]], 4 * of_all / 5)


def test_any_contradicts_subtypes_either_way():
    labels = np.array(
        [[1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0], [0] * 6, [1, -1, 0, 0, 0, 0]], np.int8
    )
    assert contradictory(labels).tolist() == [True, True, False, False, False]
