from __future__ import annotations

import errno
import io
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.storage import retries
from hemodist.storage.store import Store, StoreError
from shards.dicom.read import Slice, read_slice
from shards.dicom.reasons import Reason, Rejected
from shards.packing import task
from shards.packing.source_files import File, key_of, key_style, stem
from shards.packing.task import PackConfig, Sample
from shards.picture import encode, geometry
from tests.support.dicom_files import dicom_file, hu_image
from tests.support.samples import THREE, task_with


def rendered(found: Slice, config: PackConfig) -> encode.Picture:
    return encode.render(found, geometry.narrow(found.stored, found.bounds), config)[0]


def sample(content: bytes, **changes: object) -> Sample:
    made = task.make_sample(content, "a/ID_1.dcm", np.array([1, 0, 0, UNKNOWN, 0, 1], np.int8), task_with(**changes))
    assert isinstance(made, Sample), made
    return made


def test_a_sample_says_what_it_shows_and_nothing_of_the_patient() -> None:
    made = sample(dicom_file(hu_image(64), PatientID="secret-1", PatientName="DOE^JANE"))
    described = json.loads(made.json)
    assert described["labels"] == dict(zip(LABELS, [1, 0, 0, None, 0, 1], strict=True))
    assert described["key"] == "ID_1"
    assert described["spacing_mm"] == [1.0, 1.0]
    assert described["position_mm"] == 7.5
    assert described["box"] == [0, 0, 64]
    assert described["windows"] == list(THREE)
    assert made.row["crc32"] == zlib.crc32(made.image)
    for secret in (b"secret", b"DOE", b"2.25."):
        assert secret not in made.image + made.json
        assert secret not in repr(made.row).encode()


def test_three_windows_are_stored_as_rgb_without_chroma_subsampling() -> None:
    with Image.open(io.BytesIO(sample(dicom_file()).image)) as picture:
        assert (picture.format, picture.size, picture.mode) == ("JPEG", (32, 32), "RGB")
        assert {layer[1:3] for layer in picture.layer} == {(1, 1)}  # type: ignore[attr-defined]


def test_one_window_is_stored_as_grey() -> None:
    with Image.open(io.BytesIO(sample(dicom_file(), windows=("brain",)).image)) as picture:
        assert picture.mode == "L"


def test_png_holds_the_windows_exactly() -> None:
    content = dicom_file()
    found = read_slice(content)
    assert isinstance(found, Slice)
    expected = encode.channels(rendered(found, task_with().config))
    with Image.open(io.BytesIO(sample(content, encoding="png").image)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), expected)


def test_lossless_transfer_syntaxes_give_the_same_bytes(shared_dicom: Path) -> None:
    folder = shared_dicom / "transfer_syntaxes"
    paths = [path for path in sorted(folder.glob("*.dcm")) if path.name != "jpeg2000_lossy.dcm"]
    made = [sample(path.read_bytes(), size=256) for path in paths]
    assert len({one.image for one in made}) == 1
    assert len({one.json for one in made}) == 1
    assert len({one.row["pixel_digest"] for one in made}) == 1
    lossy = sample((folder / "jpeg2000_lossy.dcm").read_bytes(), size=256)
    assert lossy.row["pixel_digest"] != made[0].row["pixel_digest"]


def test_the_pixel_digest_is_of_hu_and_not_of_how_they_are_stored() -> None:
    hu = hu_image()
    ways = [
        dicom_file(hu),
        dicom_file((hu + 1024).astype(np.uint16), RescaleIntercept="-1024"),
        dicom_file((hu + 24).astype(np.int16), RescaleIntercept="-24.0"),
        dicom_file((-hu).astype(np.int16), RescaleSlope="-1"),
    ]
    assert len({sample(content).row["pixel_digest"] for content in ways}) == 1
    assert sample(dicom_file((hu + 1).astype(np.int16))).row["pixel_digest"] != sample(ways[0]).row["pixel_digest"]


def test_too_little_brain_is_a_rejection_on_request_only() -> None:
    content = dicom_file()
    fraction = float(np.count_nonzero((hu_image() >= 0) & (hu_image() <= 80)) / hu_image().size)
    assert sample(content, min_brain_fraction=fraction).row["brain_fraction"] == fraction
    made = task.make_sample(content, "x", np.zeros(6, np.int8), task_with(min_brain_fraction=fraction + 0.01))
    assert isinstance(made, Rejected)
    assert made.reason == Reason.LITTLE_BRAIN


def test_the_head_crop_is_recorded() -> None:
    content = dicom_file(hu_image(256))
    described = json.loads(sample(content, crop_head=True).json)
    top, left, side = described["box"]
    assert 0 < top < 60
    assert 0 < left < 60
    assert 150 < side < 256
    assert described["spacing_mm"][0] == pytest.approx(0.5 * side / 32)


def test_keys_are_unique_and_hold_no_dot() -> None:
    paths = ["a/x.dcm", "a=2Fx.dcm", "a/x.1.dcm", "a/x=2E1", "ü/x", "a b", "a/x.DCM.dcm", "d" * 200, "d" * 201]
    keys = [key_of(path, "path") for path in paths]
    assert len(set(keys)) == len(paths)
    assert all("." not in key and key.isascii() and len(key) <= 90 for key in keys)


def test_stems_are_keys_where_they_are_unique() -> None:
    assert stem("x/ID_1.DCM") == "ID_1"
    assert key_style([File("a/ID_1.dcm", 1), File("b/ID_2.dcm", 1)]) == "stem"
    assert key_style([File("a/01.dcm", 1), File("b/01.dcm", 1)]) == "path"
    assert key_style([File("a/01.dcm", 1), File("a/01.DICOM", 1)]) == "file"
    assert key_of("a/01.dcm", "path") == "a/01"
    assert key_of("a/ID_1.dcm", "stem") == "ID_1"


def test_a_source_that_changes_under_the_sharder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "WAITS", (0.0, 0.0, 0.0))
    (tmp_path / "a.dcm").write_bytes(b"123")
    source = Store.open(tmp_path)
    assert task.read_source(source, File("a.dcm", 3)) == b"123"
    with pytest.raises(StoreError, match="held 4 bytes when listed and gives 3"):
        task.read_source(source, File("a.dcm", 4))
    with pytest.raises(StoreError):
        task.read_source(source, File("gone.dcm", 3))


def test_a_passing_read_error_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "WAITS", (0.0, 0.0, 0.0))
    (tmp_path / "a.dcm").write_bytes(b"123")
    fails, read = [errno.EIO, errno.ESTALE], io.FileIO

    def flaky(path: str) -> io.FileIO:
        if fails:
            raise OSError(fails.pop(), "the network folder is away")
        return read(path)

    monkeypatch.setattr(io, "FileIO", flaky)
    assert task.read_source(Store.open(tmp_path), File("a.dcm", 3)) == b"123"
    assert not fails


def test_a_huge_file_is_rejected_unread(tmp_path: Path) -> None:
    found = task.read_source(Store.open(tmp_path), File("never-there", task.MAX_FILE_BYTES + 1))
    assert isinstance(found, Rejected)
    assert found.reason == Reason.ABSURD_SIZE


def test_pixels_that_are_not_square_give_the_head_its_shape_back() -> None:
    """The same disc, sampled twice as densely along one axis, is stored as the same disc."""
    image = hu_image(64)
    plain = sample(dicom_file(image, PixelSpacing=["1", "1"]))
    tall = sample(dicom_file(image.repeat(2, axis=0), PixelSpacing=["0.5", "1"]))
    wide = sample(dicom_file(image.repeat(2, axis=1), PixelSpacing=["1", "0.5"]))
    assert plain.image == tall.image == wide.image
    spacings = [json.loads(made.json)["spacing_mm"] for made in (plain, tall, wide)]
    assert spacings[0] == spacings[1] == spacings[2]


@pytest.mark.parametrize("spacing", [("0.5", "0.5001"), ("0.001", "0.5")])
def test_nearly_square_pixels_and_impossible_ones_are_left_as_they_are(spacing: tuple[str, str]) -> None:
    image = hu_image(64)
    made = sample(dicom_file(image, PixelSpacing=list(spacing)))
    assert made.image == sample(dicom_file(image)).image
    assert json.loads(made.json)["spacing_mm"] == pytest.approx([2 * float(side) for side in spacing])


EXTREMES: dict[str, dict[str, list[str]]] = {
    "aspect of 0": {"PixelSpacing": ["1e-300", "1e29"]},
    "infinite aspect": {"PixelSpacing": ["1e29", "1e-300"]},
    "infinite position": {
        "ImagePositionPatient": ["0", "0", "1e300"],
        "ImageOrientationPatient": ["1e200", "0", "0", "0", "1e200", "0"],
    },
    "position beyond float32": {"ImagePositionPatient": ["0", "0", "-122e300"]},
    "no position": {"ImageOrientationPatient": ["1e200", "1e200", "0", "1e200", "1e200", "0"]},
}


@pytest.mark.parametrize("changes", EXTREMES.values(), ids=EXTREMES.keys())
@pytest.mark.parametrize("crop_head", [False, True])
def test_geometry_of_no_scanner_is_unknown_and_costs_no_slice(changes: dict[str, list[str]], crop_head: bool) -> None:
    made = sample(dicom_file(**changes), crop_head=crop_head)
    described = json.loads(made.json)
    spacing, position = "PixelSpacing" in changes, "PixelSpacing" not in changes
    assert (described["spacing_mm"] is None) == spacing
    assert (described["position_mm"] is None) == (made.row["position"] is None) == position
    assert made.image == sample(dicom_file(), crop_head=crop_head).image


def fail(error: Exception) -> None:
    raise error


def test_an_error_that_nobody_foresaw_costs_the_file_and_not_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "render", lambda *_: fail(ZeroDivisionError("secret")))
    made = task.make_sample(dicom_file(), "x", np.zeros(6, np.int8), task_with())
    assert made == Rejected(Reason.UNREADABLE, "no sample can be made of it (ZeroDivisionError)")


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "too many files"), StoreError("gone")])
def test_what_the_machine_lacks_is_no_fault_of_the_file(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "render", lambda *_: fail(error))
    with pytest.raises(type(error)):
        task.make_sample(dicom_file(), "x", np.zeros(6, np.int8), task_with())
