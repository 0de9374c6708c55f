"""No patient, study, series or image is on two sides of a split, whatever the files say of them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemodist.dataset.dataset import DataSet
from hemodist.errors import ConfigError
from hemodist.plan.split import split
from hemodist.storage.store import Store
from shards.building import build, groups
from shards.building.index import make_index
from shards.inspect.verify import verify
from shards.packing.identity import KINDS
from tests.support.builds import config, make, record_of
from tests.support.dicom_files import content_of, dicom_file, hu_image

SPELLINGS = (str, str.upper, str.title, " {} ".format, "{}\0".format, lambda text: text.replace(" ", "  "))


def spelled(draw: st.DrawFn, number: int | None) -> str | None:
    return None if number is None else draw(st.sampled_from(SPELLINGS))(f"id {number}x")


@st.composite
def sources(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Samples of a few patients: identifiers missing, in several spellings or of somebody else, and shared images."""
    mess = draw(st.integers(0, 3))
    samples = []
    for number in range(draw(st.integers(1, 40))):
        series = draw(st.integers(0, 11))
        true = {"series": series, "study": series // 2, "patient": series // 3}
        ids = {}
        for kind, value in true.items():
            odd = draw(st.integers(0, 9))
            ids[kind] = None if odd < mess else draw(st.integers(0, 5)) if odd == 9 and mess else value
        image = number if draw(st.integers(0, 9)) else draw(st.integers(0, 5))
        uid = number if draw(st.integers(0, 9)) else draw(st.none() | st.integers(0, 3))
        names = {kind: spelled(draw, value) for kind, value in ids.items()}
        samples.append(names | {"slice": spelled(draw, uid), "image": b"%d" % image, "true": ids | {"slice": uid}})
    return samples


def linked(samples: list[dict[str, Any]], kinds: tuple[str, ...]) -> list[int]:
    """The group of each sample, the plain way: hand the smallest number on until nothing changes."""
    images = defaultdict(set)
    for sample in samples:
        images[sample["true"]["slice"]].add(sample["image"])
    group = list(range(len(samples)))
    while True:
        before = list(group)
        for kind in kinds:
            least: dict[Any, int] = {}
            values = [sample["image"] if kind == "image" else sample["true"][kind] for sample in samples]
            for number, value in enumerate(values):
                if value is None or (kind == "slice" and len(images[value]) > groups.MAX_VERSIONS):
                    values[number] = ("alone", number)
            for value, number in zip(values, group, strict=True):
                least[value] = min(number, least.get(value, number))
            group = [least[value] for value in values]
        if group == before:
            return group


@given(samples=sources(), folds=st.integers(2, 4), seed=st.integers(0, 99))
def test_nothing_is_on_two_sides_of_a_split_and_joins_are_counted(
    samples: list[dict[str, Any]], folds: int, seed: int
) -> None:
    order = (*KINDS, "slice", "image")
    group = linked(samples, order)
    if crowd(samples, group):
        with pytest.raises(ConfigError, match=r"^one .* of .*, slice \d+ among them"):
            make_index(record_of(samples))
        return
    made = make_index(record_of(samples))
    dense = {number: rank for rank, number in enumerate(dict.fromkeys(group))}
    assert made.index.column("group").to_pylist() == [dense[number] for number in group]
    counts = [len(samples), *(len(set(linked(samples, order[: n + 1]))) for n in range(len(order)))]
    assert made.identity == {
        "groups": len(dense),
        "largest_group": max(group.count(number) for number in dense),
        "joins": {kind: counts[n] - counts[n + 1] for n, kind in enumerate(order)},
        "respelled": sum(
            len({sample[kind] for sample in samples if sample["true"][kind] == value}) > 1
            for kind in KINDS
            for value in {sample["true"][kind] for sample in samples} - {None}
        ),
        "nameless": sum(all(sample[kind] is None for kind in KINDS) for sample in samples),
    }
    for kind in KINDS:
        names, true = made.index.column(kind).to_pylist(), [sample["true"][kind] for sample in samples]
        assert len(set(names)) == len(set(true)) == len(set(zip(names, true, strict=True)))
    numbers = made.index.column("group").to_numpy()
    try:
        parts = split(numbers, np.ones(len(samples), bool), folds=folds, valid_fold=0, seed=seed)
    except ConfigError:
        return  # a side was empty, which is said
    for of in (lambda s: s["true"]["patient"], lambda s: s["true"]["study"], lambda s: s["true"]["series"],
               lambda s: s["image"]):  # fmt: skip
        sides = [{of(samples[row]) for row in part} - {None} for part in (parts.train, parts.valid)]
        assert not sides[0] & sides[1]


def crowd(samples: list[dict[str, Any]], group: list[int]) -> bool:
    """Whether one value stands on so many and on more than half, the plain way."""
    for kind, held, least in groups.CROWDED:
        on = defaultdict(set)
        for sample, number in zip(samples, group, strict=True):
            value = {"group": number, "image": sample["image"]}.get(kind, sample["true"].get(kind))
            if value is not None and sample["true"][held] is not None:
                on[value].add(sample["true"][held])
        total = len(set().union(*on.values()))
        if any(len(those) >= least and 2 * len(those) > total for those in on.values()):
            return True
    return False


def write(folder: Path, patients: int, slices: int, **of: Any) -> Path:
    """Patients of one study and series each; `of` gives an element for (patient, slice), None to leave it away."""
    folder.mkdir(parents=True)
    for p in range(patients):
        for n in range(slices):
            elements = {"PatientID": f"Pat {p}", "StudyInstanceUID": f"2.25.1.{p}", "SeriesInstanceUID": f"2.25.2.{p}"}
            elements |= {name: give(p, n) for name, give in of.items()}
            elements["SOPInstanceUID"] = f"2.25.3.{p}.{n}"
            (folder / f"{p}-{n}.dcm").write_bytes(dicom_file(hu_image(seed=100 * p + n), **elements))
    return folder


def sizes(folder: Path) -> list[int]:
    return sorted(np.bincount(DataSet.open(str(folder)).column("group")).tolist())


@pytest.mark.parametrize(
    "of",
    [
        {"PatientID": lambda p, n: None if p and n % 2 else f"Pat {p}"},
        {"PatientID": lambda p, n: None, "StudyInstanceUID": lambda p, n: None if n % 2 else f"2.25.1.{p}"},
        {"PatientID": lambda p, n: (f"Pat {p}", f"PAT {p} ", f"pat  {p}")[n % 3],
         "StudyInstanceUID": lambda p, n: None, "SeriesInstanceUID": lambda p, n: None},
        {"PatientID": lambda p, n: f"made up {p} {n}"},
    ],
    ids=["patient on every second", "study on every second", "three spellings", "a patient for each file"],
)  # fmt: skip
def test_a_scan_is_one_group_however_its_files_name_it(tmp_path: Path, of: dict[str, Any]) -> None:
    manifest = make(write(tmp_path / "data", 4, 6, **of), tmp_path / "out")
    assert sizes(tmp_path / "out") == [6, 6, 6, 6]
    assert manifest.identity is not None
    assert 24 - sum(manifest.identity["joins"].values()) == manifest.identity["groups"] == 4
    assert manifest.identity["nameless"] == 0
    assert verify(Store.open(tmp_path / "out")).problems == []


def test_files_that_name_nobody_are_told(tmp_path: Path) -> None:
    nobody = dict.fromkeys(("PatientID", "StudyInstanceUID", "SeriesInstanceUID"), lambda p, n: None if p else "x")
    manifest = make(write(tmp_path / "data", 4, 3, **nobody), tmp_path / "out")
    assert manifest.identity is not None
    assert manifest.identity["nameless"] == 9
    told = build.summary(manifest)["samples without patient, study and series"]
    assert told == "9: a split may part the slices of one scan"
    make(write(tmp_path / "named", 4, 3), tmp_path / "other")
    assert "samples without patient, study and series" not in build.summary(
        make(tmp_path / "named", tmp_path / "other")
    )


@pytest.mark.parametrize(
    ("patients", "of", "says"),
    [
        (
            20,
            {"PatientID": lambda p, n: "ANONYMOUS"},
            "one patient ID stands on 20 of 20 studies.*--ignore-ids patient",
        ),
        (3, {"StudyInstanceUID": lambda p, n: "2.25.1"}, "one study UID stands on 3 of 3 patients.*--ignore-ids study"),
        (4, {"SeriesInstanceUID": lambda p, n: "2" if p else "3"}, "one series UID stands on 3 of 4 patients"),
        (
            4,
            {"PatientID": lambda p, n: None, "SeriesInstanceUID": lambda p, n: "2"},
            "series UID stands on 4 of 4 stud",
        ),
    ],
)
def test_an_identifier_on_everything_is_refused_with_the_remedy(
    tmp_path: Path, patients: int, of: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        make(write(tmp_path / "data", patients, 1, **of), tmp_path / "out")
    assert "ANONYMOUS" not in str(raised.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_identifier_that_is_ignored_joins_nothing_and_keeps_the_shards(tmp_path: Path) -> None:
    source = write(tmp_path / "data", 4, 2, StudyInstanceUID=lambda p, n: "2.25.1")
    with pytest.raises(ConfigError, match="--ignore-ids study"):
        make(source, tmp_path / "out")
    before = content_of(tmp_path / "out" / "shards")
    todo = build.plan(config(source, tmp_path / "out", ignore_ids=("study",)))
    assert isinstance(todo, build.BuildPlan)
    resumed: list[bool] = []
    manifest, _ = build.run(todo, tell=lambda result: resumed.append(result.resumed))
    assert resumed == [True]
    assert content_of(tmp_path / "out" / "shards") == before
    assert sizes(tmp_path / "out") == [2, 2, 2, 2]
    assert DataSet.open(str(tmp_path / "out")).index.column("study").null_count == 8
    assert manifest.config["ignored_ids"] == ["study"]
    assert verify(Store.open(tmp_path / "out")).problems == []
    with pytest.raises(ConfigError, match="ignored_ids"):
        build.plan(config(source, tmp_path / "out"))


def test_a_patient_who_comes_back_is_no_crowd(tmp_path: Path) -> None:
    of = {"PatientID": lambda p, n: "Pat 0" if p < 12 else f"Pat {p}"}
    make(write(tmp_path / "data", 14, 1, **of), tmp_path / "out")
    assert sizes(tmp_path / "out") == [1, 1, 12]
