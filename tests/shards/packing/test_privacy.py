from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pydicom
from pydicom.datadict import DicomDictionary, keyword_dict

from tests.support.builds import make
from tests.support.dicom_files import content_of, dataset, hu_image, to_bytes


def planted(vr: str, number: int) -> Any:
    """A value of a kind that tells who somebody is, for an element of this VR."""
    return {
        "PN": f"Zzyzx^Person{number}", "DA": "19310203", "TM": "030201.99", "DT": "19310203030201",
        "AS": "093Y", "UI": f"2.25.77{number}77", "IS": "77077077", "DS": "77077.077",
    }.get(vr, f"ZZYZX{number}")  # fmt: skip


def test_nothing_planted_in_any_element_reaches_any_output(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    kept = {"Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "Modality"}
    kept |= {"ImageType", "PhotometricInterpretation", "RescaleSlope", "RescaleIntercept", "RescaleType"}
    kept |= {"NumberOfFrames", "SOPClassUID", "SpecificCharacterSet"}
    texts = {"PN", "LO", "SH", "LT", "ST", "UT", "UC", "DA", "TM", "DT", "AS", "UI", "IS", "DS", "CS", "AE"}
    made = dataset(hu_image())
    number = 0
    with pydicom.config.disable_value_validation():
        for keyword in sorted(keyword_dict):
            tag = keyword_dict[keyword]
            vr = DicomDictionary[tag][0]
            if vr in texts and keyword not in kept and tag >> 16 > 2 and "PixelData" not in keyword:
                number += 1
                made.add_new(tag, vr, planted(vr, number))
        made.add_new(0x00091001, "LO", "ZZYZX private")
        made.private_block(0x0011, "ZZYZX maker", create=True)
    assert number > 1000
    (source / "good.dcm").write_bytes(to_bytes(made))
    made.Modality = "ZZYZX"
    (source / "bad.dcm").write_bytes(to_bytes(made))
    made.ImageType, made.Modality = ["ZZYZX", "ZZYZX", "LOCALIZER"], "CT"
    (source / "bad2.dcm").write_bytes(to_bytes(made))
    manifest = make(source, tmp_path / "out", encoding="png")
    assert (manifest.samples, sum(manifest.rejected.values())) == (1, 2)
    output = content_of(tmp_path / "out")
    for name in ("index.parquet", "rejected.parquet"):  # their columns are compressed
        output[f"{name} as text"] = str(pq.read_table(tmp_path / "out" / name).to_pylist()).encode()
    for name, content in output.items():
        for secret in (b"ZZYZX", b"Zzyzx", b"19310203", b"030201", b"093Y", b"2.25.77", b"77077"):
            assert secret not in content, (name, secret)
