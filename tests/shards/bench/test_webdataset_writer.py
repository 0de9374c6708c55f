from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from shards.bench import ways, webdataset_writer
from shards.dicom.read import Slice, read_slice
from shards.picture import encode, geometry
from tests.support.dicom_files import dicom_file, hu_image


def test_the_peer_packs_the_sharders_pictures(tmp_path: Path) -> None:
    """Windows before averaging here, after it in the sharder: a few grey levels, where both sides of an edge differ."""
    paths = [tmp_path / f"{number}.dcm" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(dicom_file(hu_image(512, seed=number)))
    webdataset_writer.write(paths, tmp_path, ways.WINDOWS, ways.SIZE, ways.QUALITY)
    with tarfile.open(tmp_path / "000000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    assert sorted(members) == sorted(f"{number:06d}.{kind}" for number in range(3) for kind in ("jpg", "json"))
    assert set(json.loads(members["000001.json"])["labels"].values()) == {None}
    for number, path in enumerate(paths):
        found = read_slice(path.read_bytes())
        assert isinstance(found, Slice)
        image, _ = encode.render(found, geometry.narrow(found.stored, found.bounds), ways._CONFIG)
        ours = np.asarray(Image.open(io.BytesIO(encode.encode(image, ways._CONFIG))), float)
        theirs = np.asarray(Image.open(io.BytesIO(members[f"{number:06d}.jpg"])), float)
        assert theirs.shape == ours.shape == (256, 256, 3)
        assert np.corrcoef(theirs.ravel(), ours.ravel())[0, 1] > 0.95
