"""The contact sheet: a block a series, slices by position, each window in grey with its name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemodist.dataset.dataset import DataSet
from shards.__main__ import main
from shards.inspect import show
from tests.support.builds import make
from tests.support.dicom_files import dicom_file, hu_image, write_source


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Eight series of ten slices, the sixth of which is 1,024 HU too low; and one file that is no slice."""
    folder = tmp_path_factory.mktemp("series")
    source = write_source(folder / "data", 80, per_patient=10, broken=1)
    for number in range(80):
        made = dicom_file(
            hu_image(seed=number), SOPInstanceUID=f"2.25.1{number}", SeriesInstanceUID=f"2.25.7{number // 10}",
            ImagePositionPatient=["0", "0", str(5 * (number * 7 % 10))],
            RescaleIntercept="-1024" if number // 10 == 5 else "0",
        )  # fmt: skip
        (source / "stage_2_train" / f"ID_{number:09x}.dcm").write_bytes(made)
    make(source, folder / "out", encoding="png", windows=("brain", "subdural", "bone"))
    return DataSet.open(str(folder / "out"))


def test_slices_of_a_series_stand_in_the_order_of_their_positions(dataset: DataSet) -> None:
    chosen = show.choose(dataset, 24)
    assert [len(rows) for _, rows in chosen] == [6] * 4
    names = dataset.index.column("series").to_pylist()
    for one, rows in chosen:
        place = dataset.column("position")[rows]
        assert (np.diff(place) > 0).all()
        assert {names[row] for row in rows} == {one.name}
        assert place[0] < 15
        assert place[-1] > 30


def test_odd_series_come_first_and_others_bleed_or_not(dataset: DataSet) -> None:
    assert dataset.manifest.series is not None
    chosen = show.choose(dataset, 24)
    assert chosen[0][0].name == dataset.manifest.series["no_brain"]["first"][0]
    assert [one.faults for one, _ in chosen[1:]] == [{}] * 3
    assert len(show.choose(dataset, 10**6)) == 8
    assert [len(rows) for _, rows in show.choose(dataset, 3)] == [3]


def test_the_sheet_shows_each_window_of_the_stored_picture_in_grey(dataset: DataSet) -> None:
    sheet = np.asarray(Image.open(io.BytesIO(show.contact_sheet(dataset, 24))))
    blocks = np.split(sheet, 4)
    assert sheet.shape[1] == 84 + 6 * (show.TILE + 4)
    seen = []
    for block in blocks:
        pictures = block[-12 - 3 * (show.TILE + 4) :, 84:]
        assert (pictures == pictures[..., :1]).all()
        heads = pictures[: 3 * (show.TILE + 4)].reshape(3, show.TILE + 4, -1, 3)[:, : show.TILE, :, 0]
        tiles = heads[:, :, : 6 * (show.TILE + 4)].reshape(3, show.TILE, 6, -1)[..., : show.TILE]
        seen.append(tiles[:, show.TILE // 2, :, show.TILE // 2].astype(int))
    odd, *others = seen
    assert (odd == 0).all()
    for brain, subdural, bone in others:  # 40 +- 15 HU
        assert ((brain > 80) & (brain < 180)).all()
        assert ((subdural > 40) & (subdural < 110)).all()
        assert ((bone > 60) & (bone < 80)).all()


def test_the_command_writes_the_sheet_and_names_what_is_odd_and_what_is_no_sample(
    dataset: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", dataset.store.root, "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert Image.open(tmp_path / "sheet.png").mode == "RGB"
    said = capsys.readouterr().out
    assert "series without brain" in said
    assert "1 of 8 (10 slices)" in said
    assert "wrong_modality" in said
    assert "broken_0.dcm" in said
