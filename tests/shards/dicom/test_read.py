from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_rescale
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from shards.dicom import full_header, hounsfield, read
from shards.dicom.read import Slice
from shards.dicom.reasons import Fault, Reason, Rejected
from shards.dicom.stored_values import MAX_PIXELS, PixelFormat
from tests.support.dicom_files import dataset, dicom_file, hu_image, to_bytes
from tests.support.samples import assert_sample_or_rejection


def slice_of(content: bytes) -> Slice:
    found = read.read_slice(content)
    assert isinstance(found, Slice), found
    return found


def reason_of(content: bytes) -> Reason:
    found = read.read_slice(content)
    assert isinstance(found, Rejected), found
    return found.reason


def test_hu_of_real_slices_is_what_pydicom_says_but_for_the_padding(shared_dicom: Path) -> None:
    for path in sorted((shared_dicom / "head_ct").glob("*.dcm")):
        found = slice_of(path.read_bytes())
        reference = pydicom.dcmread(path)
        expected = apply_rescale(reference.pixel_array, reference)
        padding = reference.pixel_array == reference.PixelPaddingValue
        np.testing.assert_array_equal(found.hu()[~padding], expected[~padding])
        assert (found.hu()[padding] == -1000).all()


def test_every_broken_file_is_rejected_with_a_reason_of_its_own(shared_dicom: Path) -> None:
    expected = {
        "MR_truncated.dcm": Reason.TRUNCATED_PIXELS,
        "SC_rgb_jpeg_dcmtk.dcm": Reason.COLOUR,
        "badVR.dcm": Reason.BAD_VALUE,
        "meta_missing_tsyntax.dcm": Reason.MISSING_TRANSFER_SYNTAX,
        "no_meta.dcm": Reason.DAMAGED_START,
        "rtplan.dcm": Reason.NO_IMAGE,
        "undecodable_transfer_syntax.dcm": Reason.UNDECODABLE_SYNTAX,
    }
    found = {path.name: reason_of(path.read_bytes()) for path in (shared_dicom / "broken").glob("*.dcm")}
    assert found == expected
    assert len(set(found.values())) == len(found)


def test_lossless_transfer_syntaxes_give_the_same_slice(shared_dicom: Path) -> None:
    folder = shared_dicom / "transfer_syntaxes"
    expected = slice_of((folder / "reference.dcm").read_bytes())
    names = [path.name for path in folder.glob("*.dcm") if path.name != "jpeg2000_lossy.dcm"]
    assert len(names) == 6
    for name in names:
        found = slice_of((folder / name).read_bytes())
        np.testing.assert_array_equal(found.hu(), expected.hu())
        assert (found.position, found.spacing, found.uid) == (expected.position, expected.spacing, expected.uid)


def test_a_lossy_copy_of_a_slice_is_a_slice(shared_dicom: Path) -> None:
    folder = shared_dicom / "transfer_syntaxes"
    lossy = slice_of((folder / "jpeg2000_lossy.dcm").read_bytes()).hu()
    assert np.abs(lossy - slice_of((folder / "reference.dcm").read_bytes()).hu()).max() <= 5


def test_the_12_bit_fault_made_from_a_real_slice_decodes_back_exactly(shared_dicom: Path) -> None:
    content = (shared_dicom / "head_ct" / "10.dcm").read_bytes()
    hu = np.maximum(slice_of(content).hu(), -1000).astype(np.int64)  # What is below air does not survive the fault.
    faulty = dicom_file((hu % 4096).astype(np.uint16), BitsStored=12, HighBit=11, RescaleIntercept="0")
    np.testing.assert_array_equal(slice_of(faulty).hu(), hu)


@pytest.mark.parametrize(
    "changes",
    [{"RescaleIntercept": "-1024"}, {"BitsStored": 16, "HighBit": 15}, {"PixelRepresentation": 1}],
    ids=["an intercept of its own", "16 bits", "signed"],
)
def test_the_12_bit_fault_is_not_seen_where_it_is_not(changes: dict[str, Any]) -> None:
    stored = hu_image().astype(np.int64) % 2048 + 2048 * ("BitsStored" in changes)
    stored[0, 0] = 0
    elements = {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": "-50"} | changes
    found = slice_of(dicom_file(stored.astype(np.uint16), **elements))
    np.testing.assert_array_equal(found.hu(), stored + float(elements["RescaleIntercept"]))


def test_slope_and_intercept_make_hu() -> None:
    stored = hu_image().astype(np.int16)
    found = slice_of(dicom_file(stored, RescaleSlope="0.5", RescaleIntercept="-12.25"))
    np.testing.assert_array_equal(found.hu(), stored * 0.5 - 12.25)


def test_padding_is_air() -> None:
    stored = hu_image()
    stored[:3] = -2000
    hu = slice_of(dicom_file(stored, PixelPaddingValue=-2000)).hu()
    assert (hu[:3] == -1000).all()
    np.testing.assert_array_equal(hu[3:], stored[3:])


def test_padding_that_was_written_unsigned_into_a_signed_file_is_found() -> None:
    stored = hu_image()
    stored[:3] = -2000
    made = dataset(stored)
    made.add_new("PixelPaddingValue", "US", 65536 - 2000)
    assert (slice_of(to_bytes(made)).hu()[:3] == -1000).all()


def test_a_range_of_padding_is_air() -> None:
    stored = hu_image()
    stored[0], stored[1], stored[2] = -2000, -1500, -1499
    hu = slice_of(dicom_file(stored, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1500)).hu()
    assert (hu[:2] == -1000).all()
    assert (hu[2] == -1499).all()


def test_padding_beyond_bits_stored_is_found_in_the_whole_cell() -> None:
    stored = (hu_image() + 1024).astype(np.uint16)
    stored[:3] = 63536
    changes = {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": "-1024", "PixelPaddingValue": 63536}
    assert (slice_of(dicom_file(stored, **changes)).hu()[:3] == -1000).all()


def test_bits_above_the_high_bit_are_ignored_and_the_sign_is_extended() -> None:
    hu = hu_image()
    cells = (hu.astype(np.int64) % 4096 + 0xA000).astype(np.uint16)
    found = slice_of(dicom_file(cells, BitsStored=12, HighBit=11, PixelRepresentation=1))
    np.testing.assert_array_equal(found.hu(), hu)


def test_values_below_the_high_bit_are_shifted_down() -> None:
    hu = hu_image()
    cells = ((hu.astype(np.int64) % 4096) << 4).astype(np.uint16)
    found = slice_of(dicom_file(cells, BitsStored=12, HighBit=15, PixelRepresentation=1))
    np.testing.assert_array_equal(found.hu(), hu)


@pytest.mark.parametrize("signed", [False, True])
def test_monochrome1_gives_hu_whether_or_not_its_values_are_inverted(signed: bool) -> None:
    hu = hu_image()
    stored = hu.astype(np.int16) if signed else (hu + 1024).astype(np.uint16)
    top = -1 if signed else 4095
    elements = {"PhotometricInterpretation": "MONOCHROME1", "RescaleIntercept": "0" if signed else "-1024"}
    if not signed:
        elements |= {"BitsStored": 12, "HighBit": 11}
    for values in (stored, (top - stored.astype(np.int64)).astype(stored.dtype)):
        np.testing.assert_array_equal(slice_of(dicom_file(values, **elements)).hu(), hu)


def test_several_window_centers_do_not_matter() -> None:
    found = slice_of(dicom_file(WindowCenter=["00036", "00036"], WindowWidth=["00080", "00080"]))
    np.testing.assert_array_equal(found.hu(), hu_image())


def test_a_signed_codestream_is_believed_against_pixel_representation_0() -> None:
    made = dataset(hu_image())
    made.compress(JPEG2000Lossless, generate_instance_uid=False)
    made.PixelRepresentation = 0
    np.testing.assert_array_equal(slice_of(to_bytes(made)).hu(), hu_image())


def test_an_unsigned_codestream_under_pixel_representation_1_holds_twos_complement() -> None:
    path = get_testdata_file("J2K_pixelrep_mismatch.dcm", download=False)
    reference = pydicom.dcmread(path)
    reference.Modality, reference.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    if "PixelPaddingValue" in reference:
        del reference.PixelPaddingValue
    reference.RescaleSlope, reference.RescaleIntercept = 1, 0
    buffer = io.BytesIO()
    reference.save_as(buffer)
    hu = slice_of(buffer.getvalue()).hu()
    assert hu[0, 0] == -2000  # documented with the file
    np.testing.assert_array_equal(hu, reference.pixel_array)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("bits", [12, 16])
def test_compressed_slices_equal_uncompressed_ones(syntax: str, bits: int) -> None:
    stored = (hu_image() + 1024).astype(np.uint16)
    made = dataset(stored, BitsStored=bits, HighBit=bits - 1, RescaleIntercept="-1024")
    made.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(slice_of(to_bytes(made)).hu(), hu_image())


@pytest.mark.parametrize("little", [True, False])
def test_eight_bit_slices_are_read_in_either_byte_order(little: bool) -> None:
    stored = (hu_image(31).astype(np.int64) // 8 + 130).astype(np.uint8)
    made = dataset(stored, RescaleSlope="8", RescaleIntercept="-1040")
    content = stored.tobytes() + b"\0"
    if not little:
        made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
        content = np.frombuffer(content, np.uint16).byteswap().tobytes()
    made.PixelData = content
    np.testing.assert_array_equal(slice_of(to_bytes(made, little=little)).hu(), stored * 8.0 - 1040)


def test_a_file_without_preamble_is_read() -> None:
    content = dicom_file()
    body = content[content.index(b"\x08\x00\x08\x00CS") :]
    for headless in (content[128:], body):
        np.testing.assert_array_equal(slice_of(headless).hu(), hu_image())


def test_a_deflated_file_is_read_but_not_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    made = dataset(hu_image())
    made.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    content = to_bytes(made)
    np.testing.assert_array_equal(slice_of(content).hu(), hu_image())
    monkeypatch.setattr(full_header, "MAX_INFLATED", 1000)
    assert reason_of(content) == Reason.ABSURD_SIZE
    with pytest.raises(zlib.error):
        zlib.decompress(content[-40:], -15)
    assert reason_of(content[:-40]) in (Reason.UNREADABLE, Reason.TRUNCATED_PIXELS, Reason.ABSURD_SIZE)


def test_rsna_identifiers_are_kept_though_they_are_no_valid_uids(recwarn: pytest.WarningsRecorder) -> None:
    found = slice_of(dicom_file(SOPInstanceUID="ID_0a1b2c3d4", StudyInstanceUID="ID_x", PatientID="ID_p"))
    assert (found.uid, found.study, found.patient) == ("ID_0a1b2c3d4", "ID_x", "ID_p")
    assert not recwarn.list


def test_position_is_along_the_normal_of_a_tilted_slice() -> None:
    cos, sin = 0.8, 0.6
    tilted = {"ImageOrientationPatient": [1, 0, 0, 0, cos, sin], "ImagePositionPatient": [3, -2 * sin, 2 * cos]}
    assert slice_of(dicom_file(**tilted)).position == pytest.approx(2.0)
    assert slice_of(dicom_file(ImagePositionPatient=None)).position is None


FAULTS: dict[str, tuple[dict[str, Any], Reason]] = {
    "localizer": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, Reason.LOCALIZER),
    "secondary": ({"ImageType": ["DERIVED", "SECONDARY", "OTHER"]}, Reason.DERIVED),
    "projection": ({"ImageType": ["DERIVED", "PRIMARY", "MIP"]}, Reason.DERIVED),
    "modality": ({"Modality": "MR"}, Reason.WRONG_MODALITY),
    "no modality": ({"Modality": None, "SOPClassUID": None}, Reason.WRONG_MODALITY),
    "frames": ({"NumberOfFrames": 2}, Reason.MULTI_FRAME),
    "colour": ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, Reason.COLOUR),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, Reason.COLOUR),
    "no rows": ({"Rows": None}, Reason.BAD_VALUE),
    "no photometric": ({"PhotometricInterpretation": None}, Reason.BAD_VALUE),
    "zero rows": ({"Rows": 0}, Reason.ABSURD_SIZE),
    "huge": ({"Rows": 65535, "Columns": 65535}, Reason.ABSURD_SIZE),
    "a line": ({"Rows": 1, "Columns": 65535}, Reason.ABSURD_SIZE),
    "a column": ({"Rows": 65282, "Columns": 2}, Reason.ABSURD_SIZE),
    "many frames": ({"NumberOfFrames": MAX_PIXELS}, Reason.MULTI_FRAME),
    "short": ({"Rows": 33}, Reason.TRUNCATED_PIXELS),
    "32 bits": ({"BitsAllocated": 32, "Rows": 16}, Reason.UNSUPPORTED_BITS),
    "more stored than allocated": ({"BitsStored": 17}, Reason.UNSUPPORTED_BITS),
    "no slope": ({"RescaleSlope": None}, Reason.NOT_HOUNSFIELD),
    "zero slope": ({"RescaleSlope": "0"}, Reason.NOT_HOUNSFIELD),
    "other unit": ({"RescaleType": "Z_EFF"}, Reason.NOT_HOUNSFIELD),
    "representation": ({"PixelRepresentation": 7}, Reason.BAD_VALUE),
}


@pytest.mark.parametrize(("changes", "reason"), FAULTS.values(), ids=FAULTS.keys())
def test_each_fault_has_its_reason(changes: dict[str, Any], reason: Reason) -> None:
    assert reason_of(dicom_file(**changes)) == reason


def test_faults_of_the_container_have_their_reasons() -> None:
    assert reason_of(b"") == Reason.EMPTY
    assert reason_of(b"# a note\n" * 100) == Reason.NOT_DICOM
    assert reason_of(dicom_file()[400:]) == Reason.NOT_DICOM
    assert reason_of(b" " + dicom_file()[132:]) == Reason.DAMAGED_START
    assert reason_of(dicom_file(np.full((8, 8), 7, np.int16))) == Reason.CONSTANT


def test_a_codestream_of_another_size_is_rejected_before_it_is_decoded() -> None:
    made = dataset(hu_image(64))
    made.compress(JPEG2000Lossless, generate_instance_uid=False)
    made.Rows = made.Columns = 32
    assert reason_of(to_bytes(made)) == Reason.CODESTREAM_MISMATCH
    frame = bytearray(pydicom.encaps.get_frame(made.PixelData, 0, number_of_frames=1))
    start = frame.index(b"\xff\x4f\xff\x51")
    frame[start + 8 : start + 16] = b"\x7f\xff\xff\xff" * 2
    made.PixelData = encapsulate([bytes(frame)])
    assert reason_of(to_bytes(made)) in (Reason.CODESTREAM_MISMATCH, Reason.UNDECODABLE_PIXELS)


def test_a_decoder_that_panics_costs_the_file_and_not_the_run() -> None:
    good = dataset(hu_image())
    good.compress(RLELossless, generate_instance_uid=False)
    assert isinstance(read.read_slice(to_bytes(good)), Slice)
    segment = b"\x81\x05" * 40  # runs that go on beyond the frame
    head = struct.pack("<16I", 2, 64, 64 + len(segment), *[0] * 13)
    good.PixelData = encapsulate([head + segment * 2])
    assert reason_of(to_bytes(good)) == Reason.UNDECODABLE_PIXELS
    good.compress(RLELossless, hu_image(), generate_instance_uid=False)
    assert isinstance(read.read_slice(to_bytes(good)), Slice)


def test_rsnas_truncated_slice_is_told_by_its_bytes() -> None:
    made = dataset(np.zeros((512, 512), np.int16))
    made.PixelData = bytes(153710)
    found = read.read_slice(to_bytes(made))
    assert found == Rejected(Reason.TRUNCATED_PIXELS, "153710 bytes of 524288")


def test_no_text_of_a_file_is_in_a_rejection() -> None:
    secret = "DOE^JANE"
    for keyword in ("Modality", "ImageType", "PhotometricInterpretation", "RescaleType", "NumberOfFrames"):
        made = dataset(hu_image())
        made.add_new(keyword, "LO", secret)
        found = read.read_slice(to_bytes(made))
        if isinstance(found, Rejected):
            assert "DOE" not in found.detail.upper()


def test_every_reason_has_a_meaning_and_an_own_code() -> None:
    assert len({reason.value for reason in Reason}) == len(Reason)
    assert all(reason.meaning and "\n" not in reason.meaning for reason in Reason)


SMALL = dicom_file(hu_image(32))


def implicit_file() -> bytes:
    made = dataset(hu_image(32))
    made.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    return to_bytes(made, implicit=True)


IMPLICIT = implicit_file()


def compressed(syntax: str) -> bytes:
    made = dataset(hu_image(32))
    made.compress(syntax, generate_instance_uid=False)
    return to_bytes(made)


SEEDS = [SMALL, *(compressed(syntax) for syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless))]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(range(len(SEEDS))),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
def test_damaged_bytes_give_a_sample_or_a_rejection(seed: int, flips: list[tuple[int, int]], kept: float) -> None:
    content = bytearray(SEEDS[seed])
    for position, value in flips:
        content[position % len(content)] = value
    damaged = bytes(content[: int(kept * len(content)) + 1])
    assert isinstance(read.read_slice(damaged), Slice | Rejected)
    assert_sample_or_rejection(damaged)


def test_a_real_file_cut_anywhere_gives_a_sample_or_a_rejection(shared_dicom: Path) -> None:
    for name in ("reference", "jpeg_lossless_sv1", "jpeg_ls_lossless", "rle_lossless", "jpeg2000_lossy"):
        content = (shared_dicom / "transfer_syntaxes" / f"{name}.dcm").read_bytes()
        for end in range(0, len(content), 16 * 1024):
            assert_sample_or_rejection(content[:end])


def full_way(content: bytes) -> Slice | Rejected:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "_read_fast", lambda content: None)
        return read.read_slice(content)


def assert_both_ways_agree(content: bytes) -> bool:
    """Compare the ways, and say whether the fast one was taken."""
    fast: Slice | Rejected | None
    try:
        fast = read._read_fast(content)
    except Fault as fault:
        fast = fault.rejected
    full = full_way(content)
    if fast is None:
        return False
    if isinstance(fast, Rejected):
        assert full == fast
        return True
    assert isinstance(full, Slice), full
    for field in dataclasses.fields(Slice):
        np.testing.assert_array_equal(getattr(fast, field.name), getattr(full, field.name), field.name)
    return True


def test_the_fast_way_reads_what_the_full_way_reads(shared_dicom: Path) -> None:
    taken = [assert_both_ways_agree(path.read_bytes()) for path in sorted(shared_dicom.rglob("*.dcm"))]
    assert sum(taken) > 28


def test_the_fast_way_is_taken_by_phantoms_and_plain_files_and_by_no_others() -> None:
    implicit = dataset(hu_image())
    implicit.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    odd = dataset(hu_image())
    odd.PatientID = "Zoë"
    odd.SpecificCharacterSet = "ISO_IR 100"
    nested = dataset(hu_image())
    nested.RequestAttributesSequence = [pydicom.Dataset()]
    nested["RequestAttributesSequence"].is_undefined_length = True
    for content in (dicom_file(), to_bytes(implicit, implicit=True), dicom_file(PatientID=None, PixelSpacing=None)):
        assert assert_both_ways_agree(content)
    for content in (to_bytes(odd), to_bytes(nested), dicom_file(PixelSpacing=["1", "1", "1"]), dicom_file()[:-1]):
        assert not assert_both_ways_agree(content)
        assert isinstance(read.read_slice(content), Slice | Rejected)


@settings(max_examples=500, deadline=None)
@given(st.booleans(), st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), min_size=1, max_size=3))
def test_both_ways_agree_on_damaged_files(implicit: bool, flips: list[tuple[int, int]]) -> None:
    content = bytearray(IMPLICIT if implicit else SMALL)
    for position, value in flips:
        content[128 + position % (len(content) - 128)] = value
    assert_both_ways_agree(bytes(content))


def codestream_of(stored: np.ndarray, **header: Any) -> bytes:
    """A JPEG 2000 file whose codestream has the values' own bits, under a header that says otherwise."""
    made = dataset(stored)
    made.compress(JPEG2000Lossless, generate_instance_uid=False)
    for keyword, value in header.items():
        setattr(made, keyword, value)
    return to_bytes(made)


def test_the_12_bit_fault_goes_by_bits_stored_and_not_by_the_codestream() -> None:
    hu = hu_image()
    hu[0, 0] = 0
    wrapped = (hu.astype(np.int64) % 4096).astype(np.uint16)
    faulty = codestream_of(wrapped, BitsStored=12, HighBit=11, RescaleIntercept="-50")
    np.testing.assert_array_equal(slice_of(faulty).hu(), hu)
    sound = dataset(wrapped, BitsStored=12, HighBit=11, RescaleIntercept="-50")
    sound.compress(JPEG2000Lossless, generate_instance_uid=False)
    sound.BitsStored, sound.HighBit = 16, 15
    np.testing.assert_array_equal(slice_of(to_bytes(sound)).hu(), wrapped - 50.0)


def test_an_inversion_goes_by_bits_stored_and_not_by_the_codestream() -> None:
    inverted = (4095 - (hu_image().astype(np.int64) + 1024)).astype(np.uint16)
    changes = {"BitsStored": 12, "HighBit": 11, "PhotometricInterpretation": "MONOCHROME1", "RescaleIntercept": "-1024"}
    np.testing.assert_array_equal(slice_of(codestream_of(inverted, **changes)).hu(), hu_image())


def test_repairs_of_a_codestream_of_8_bits_have_room_for_12() -> None:
    stored = (hu_image().astype(np.int64) // 8 + 130).astype(np.uint8)
    form = PixelFormat(*stored.shape, 16, 12, 11, signed=False)
    np.testing.assert_array_equal(hounsfield.undo_rsna_fault(stored, form, 1.0, 0.0)[0], stored)
    bounds = int(stored.min()), int(stored.max())
    turned, turned_bounds = hounsfield.undo_inversion(stored, form, -8.0, 8.0 * 4095 - 1040, None, bounds)
    assert turned_bounds == (turned.min(), turned.max())
    np.testing.assert_array_equal(turned, 4095 - stored.astype(int))


def heads(count: int) -> bytes:
    """That many empty elements of implicit syntax, by rising tags from group 0009."""
    made = np.zeros(count, np.dtype([("group", "<u2"), ("number", "<u2"), ("length", "<u4")]))
    tags = np.arange(count) + 0x00090010
    made["group"], made["number"] = tags >> 16, tags & 0xFFFF
    return made.tobytes()


META = IMPLICIT[: IMPLICIT.index(b"\x08\x00\x08\x00")]
SEQUENCE, SEQUENCE_END = struct.pack("<HHL", 8, 0x1140, 2**32 - 1), struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
ITEM, ITEM_END = struct.pack("<HHL", 0xFFFE, 0xE000, 2**32 - 1), struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
SETS = struct.pack("<HHL", 8, 5, 2**24) + b"a\\" * 2**23
COUNT = 4_000_000
CROWDS = {
    "elements": lambda: META + heads(COUNT),
    "explicit elements": lambda: SMALL[: SMALL.index(b"\x08\x00\x08\x00")] + b"\x09\x00\x10\x00CS\0\0" * COUNT,
    "meta information": lambda: META[:132] + b"\x02\x00\x10\x01UL\0\0" * COUNT,
    "items": lambda: META + SEQUENCE + (ITEM + ITEM_END) * (COUNT // 2) + SEQUENCE_END,
    "nested elements": lambda: META + SEQUENCE + ITEM + heads(COUNT) + ITEM_END + SEQUENCE_END,
    "nesting": lambda: META + (SEQUENCE + ITEM) * (COUNT // 2),
    "character sets": lambda: META + SETS,
    "nested character sets": lambda: META + SEQUENCE + ITEM + SETS + ITEM_END + SEQUENCE_END,
}


@pytest.mark.parametrize("crowd", CROWDS.values(), ids=CROWDS.keys())
def test_a_file_of_very_many_elements_is_unreadable_soon_and_in_little_memory(crowd: Callable[[], bytes]) -> None:
    content = crowd()
    # pydicom makes an object of each of the 100,000 items that `MAX_READS` admits: 4 s of CPU on two shared cores.
    assert_sample_or_rejection(content, seconds=20.0)
    found = read.read_slice(content)
    assert isinstance(found, Rejected)
    assert found.reason == Reason.UNREADABLE


@pytest.mark.parametrize(("keyword", "one"), [("PixelSpacing", b"1\\"), ("Rows", b"\1\0"), ("PatientID", b"a\\")])
def test_a_value_of_megabytes_is_not_taken_apart(keyword: str, one: bytes) -> None:
    content = IMPLICIT
    tag = pydicom.tag.Tag(keyword)
    start = content.index(struct.pack("<HH", tag.group, tag.element))
    end = start + 8 + int.from_bytes(content[start + 4 : start + 8], "little")
    huge = content[: start + 4] + (2**21).to_bytes(4, "little") + one * 2**20 + content[end:]
    assert_sample_or_rejection(huge)
    found = read.read_slice(huge)
    if keyword == "Rows":
        assert found == Rejected(Reason.BAD_VALUE, f"Rows holds {2**21} bytes, at most {2**16} are read")
    else:
        assert isinstance(found, Slice)
        assert (found.spacing, found.patient).count(None) == 1


def test_zeros_after_the_pixels_do_not_count() -> None:
    assert_both_ways_agree(IMPLICIT + bytes(2**22))
    np.testing.assert_array_equal(slice_of(IMPLICIT + bytes(2**22)).hu(), hu_image())


def test_very_many_fragments_and_fill_bytes_are_undecodable_soon() -> None:
    for payload in (
        struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 90_000,
        encapsulate([b"\xff\xd8" + b"\xff" * 2**26]),
    ):
        made = dataset(hu_image())
        made.compress(JPEGLSLossless, generate_instance_uid=False)
        made.PixelData = payload
        content = to_bytes(made)
        assert_sample_or_rejection(content)
        assert reason_of(content) == Reason.UNDECODABLE_PIXELS


def test_padding_beyond_bits_stored_is_found_in_signed_files_too() -> None:
    stored = hu_image()
    stored[:3] = -3024
    hu = slice_of(dicom_file(stored, BitsStored=12, HighBit=11, PixelPaddingValue=-3024)).hu()
    assert (hu[:3] == -1000).all()
    np.testing.assert_array_equal(hu[3:], hu_image()[3:])
