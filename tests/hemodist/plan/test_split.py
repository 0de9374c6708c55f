from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemodist.errors import ConfigError
from hemodist.plan.split import fold_of, fold_report, label_report, split


def groups_of(n: int, groups: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, groups, n).astype(np.int32)


@given(n=st.integers(50, 2000), groups=st.integers(30, 300), folds=st.integers(2, 8), seed=st.integers(0, 1000))
def test_no_group_is_on_both_sides_and_every_usable_sample_is_on_one(n, groups, folds, seed):
    group = groups_of(n, groups, seed)
    usable = np.random.default_rng(seed + 1).random(n) < 0.9
    try:
        parts = split(group, usable, folds=folds, valid_fold=seed % folds, seed=seed)
    except ConfigError:
        return  # a side was empty, which is said
    assert not set(group[parts.train]) & set(group[parts.valid])
    assert sorted([*parts.train, *parts.valid]) == np.flatnonzero(usable).tolist()


def test_each_sample_validates_in_exactly_one_fold():
    group = groups_of(1000, 200, 0)
    usable = np.ones(1000, bool)
    valid = [split(group, usable, folds=5, valid_fold=fold).valid for fold in range(5)]
    assert sorted(np.concatenate(valid)) == list(range(1000))
    assert min(map(len, valid)) > 120  # near 200 each


def test_the_subset_of_1500_has_the_studys_1238_and_262_slices_from_the_first_shards():
    group = groups_of(20_000, 600, 1)
    parts = split(group, np.ones(20_000, bool), folds=5, valid_fold=0, subset=1500)
    assert (len(parts.train), len(parts.valid)) == (1238, 262)
    assert max(parts.train.max(), parts.valid.max()) < 2000
    assert not set(group[parts.train]) & set(group[parts.valid])


@given(small=st.integers(6, 1000), more=st.integers(0, 1000))
def test_a_larger_subset_contains_the_smaller_one(small, more):
    group = groups_of(5000, 300, 2)
    usable = np.ones(5000, bool)
    inner = split(group, usable, folds=4, valid_fold=1, subset=small)
    outer = split(group, usable, folds=4, valid_fold=1, subset=small + more)
    assert set(inner.train) <= set(outer.train)
    assert set(inner.valid) <= set(outer.valid)


@pytest.mark.parametrize(("small", "large"), [(1500, 10_000), (100, 1500), (1500, 15_000), (10_000, 15_000)])
def test_the_subsets_of_the_usual_sizes_are_nested_and_divided_in_the_studys_proportion(small, large):
    group = groups_of(20_000, 600, 3)
    inner, outer = (split(group, np.ones(20_000, bool), folds=5, valid_fold=2, subset=s) for s in (small, large))
    assert set(inner.train) < set(outer.train)
    assert set(inner.valid) < set(outer.valid)
    for parts, size in ((inner, small), (outer, large)):
        assert len(parts.train) == round(size * 1238 / 1500)
        assert len(parts.train) + len(parts.valid) == size


@given(n=st.integers(200, 2000), folds=st.integers(3, 8), seed=st.integers(0, 1000), data=st.data())
def test_a_test_fold_neither_trains_nor_validates_and_no_group_is_in_two_parts(n, folds, seed, data):
    valid, test = data.draw(st.permutations(range(folds)))[:2]
    group = groups_of(n, 150, seed)
    usable = np.ones(n, bool)
    parts = split(group, usable, folds=folds, valid_fold=valid, test_fold=test, seed=seed)
    sides = [set(group[rows]) for rows in (parts.train, parts.valid, parts.test)]
    assert not any(one & other for i, one in enumerate(sides) for other in sides[:i])
    assert sorted([*parts.train, *parts.valid, *parts.test]) == list(range(n))
    without = split(group, usable, folds=folds, valid_fold=valid, seed=seed)
    assert without.digest != parts.digest
    assert len(without.test) == 0


def test_the_test_fold_is_whole_whatever_the_subset():
    group = groups_of(20_000, 600, 4)
    options = {"folds": 5, "valid_fold": 0, "test_fold": 4}
    few, many = (split(group, np.ones(20_000, bool), subset=size, **options) for size in (1500, None))
    assert np.array_equal(few.test, many.test)
    assert len(few.train) + len(few.valid) == 1500


def test_the_report_of_the_folds_counts_every_usable_slice_once():
    group, usable = groups_of(1000, 100, 5), np.random.default_rng(0).random(1000) < 0.9
    labels = (np.random.default_rng(1).random((1000, 6)) < 0.3).astype(np.int8)
    report = fold_report(labels, group, usable, folds=4, seed=2)
    assert list(report) == ["0", "1", "2", "3"]
    assert sum(fold["slices"] for fold in report.values()) == usable.sum()
    assert sum(fold["any"] for fold in report.values()) == labels[usable, 0].sum()
    assert sum(fold["groups"] for fold in report.values()) == len(np.unique(group[usable]))


def test_another_seed_gives_other_folds_and_another_digest():
    group = groups_of(1000, 200, 0)
    usable = np.ones(1000, bool)
    assert (fold_of(group, 5, 0) != fold_of(group, 5, 1)).mean() > 0.5
    digests = {split(group, usable, folds=5, valid_fold=f, seed=s).digest for f in range(5) for s in range(3)}
    assert len(digests) == 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1, "valid_fold": 0}, "2 or more folds"),
        ({"folds": 5, "valid_fold": 5}, "from 0 to folds - 1"),
        ({"folds": 5, "valid_fold": 1, "test_fold": 1}, "two different ones"),
        ({"folds": 5, "valid_fold": 1, "test_fold": 5}, "two different ones"),
        ({"folds": 2, "valid_fold": 1, "test_fold": 0}, "3 or more folds"),
        ({"folds": 5, "valid_fold": 0, "subset": 5000}, "has"),
        ({"folds": 5, "valid_fold": 0, "subset": 1}, "smaller subset"),
    ],
)
def test_a_split_that_cannot_be_made_says_what_helps(options, message):
    with pytest.raises(ConfigError, match=message):
        split(groups_of(500, 100, 0), np.ones(500, bool), **options)


def test_one_patient_cannot_be_divided():
    with pytest.raises(ConfigError, match="more patients"):
        split(np.zeros(100, np.int32), np.ones(100, bool), folds=5, valid_fold=0)


def test_the_report_counts_positives_by_part():
    labels = np.zeros((10, 6), np.int8)
    labels[:4, 0] = 1
    labels[5, 0] = -1
    report = label_report(labels, {"train": np.arange(6), "valid": np.arange(6, 10)})
    assert report["train"]["slices"] == 6
    assert report["train"]["any"] == 4
    assert report["valid"]["any"] == 0
