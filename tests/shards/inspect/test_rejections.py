from __future__ import annotations

import pyarrow as pa
import pytest

from hemodist.dataset.index import REJECTED_SCHEMA
from hemodist.dataset.manifest import REJECTED, DatasetError
from hemodist.storage.store import Store
from shards.dicom.reasons import Kind, Reason, kind_of
from shards.inspect import rejections
from shards.packing.record import to_parquet

ROWS = [(f"a long folder/{'deep/' * 30}{number}.dcm", "unreadable", "TypeError") for number in range(5)]
ROWS += [("notes.txt", "not_dicom", "22 bytes"), ("IM1", "not_dicom", "9 bytes"), ("IM2", "localizer", "SCOUT")]
ROWS += [(f"{number}.dcm", "not_selected", "") for number in range(1000)]


def test_each_reason_has_its_number_its_kind_its_meaning_and_three_whole_paths() -> None:
    said = rejections.table(ROWS)
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert [line for line in lines if "(" in line] == [
        f"1 not_dicom (faulty): {Reason.NOT_DICOM.meaning}",
        "5 unreadable (faulty): the data set cannot be parsed",
        "1 localizer (not meant to be a slice): a localizer (scout, topogram), not a slice",
        f"1 not_dicom (not meant to be a slice): {Reason.NOT_DICOM.meaning}",
        "1,000 not_selected (left out by a flag): left out by --selection",
    ]
    assert [path in lines for path, _, _ in ROWS[:5]] == [True] * 3 + [False] * 2
    assert lines.count("...") == 2


def test_only_faulty_files_count() -> None:
    assert rejections.faulty(ROWS) == 6
    assert rejections.faulty_fraction(94, ROWS) == 0.06
    assert rejections.faulty_fraction(0, []) == 0
    assert rejections.in_short(ROWS[4:8]) == (
        f"1 not_dicom (IM1); 1 unreadable ({ROWS[4][0]}); 1 localizer (IM2); 1 not_dicom (notes.txt)"
    )


def test_what_no_code_names_is_a_fault() -> None:
    assert kind_of("corrupt", "a.dcm") == Kind.FAULTY
    assert rejections.table([("a.dcm", "corrupt", "")]).splitlines()[1] == "1 corrupt (faulty)"


@pytest.mark.parametrize("content", [b"", b"PAR1", to_parquet(pa.table({"path": ["a"]}))])
def test_a_damaged_table_is_an_error_that_names_it(tmp_path, content: bytes) -> None:
    (tmp_path / REJECTED).write_bytes(content)
    with pytest.raises(DatasetError, match=r"rejected.parquet is no table of rejected files"):
        rejections.read(Store.open(tmp_path))
    columns = zip(*ROWS, strict=True)
    whole = pa.table([list(column) for column in columns], REJECTED_SCHEMA)
    (tmp_path / REJECTED).write_bytes(to_parquet(whole))
    assert rejections.read(Store.open(tmp_path)) == ROWS
