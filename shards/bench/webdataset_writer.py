"""The sharder's peer from the webdataset library: the notebook's arithmetic, packed by its `ShardWriter`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import webdataset
from PIL import Image

from hemodist.dataset.labels import LABELS
from shards.picture.windows import NAMED


def write(paths: Sequence[Path], output: Path, windows: Sequence[str], size: int, quality: int) -> None:
    """Read, window, resize, encode and pack files; runs in one process of a pool.

    Each sample is `KEY.jpg` with 4:4:4 chroma and `KEY.json` with its labels, unknown here, as the sharder's are.

    Args:
        paths: of DICOM files.
        output: folder of the tar.
        windows: by name, one a channel.
        size: of the images in pixels.
        quality: of JPEG.
    """
    named = [NAMED[name] for name in windows]
    with webdataset.ShardWriter(str(output / "%06d.tar"), maxcount=len(paths) + 1, verbose=0) as sink:
        for number, path in enumerate(paths):
            read = pydicom.dcmread(path)
            hu = read.pixel_array.astype(np.float32) * float(read.RescaleSlope) + float(read.RescaleIntercept)
            lows = [one.center - one.width / 2 for one in named]
            grey = [np.clip((hu - low) / one.width, 0, 1) * 255 for low, one in zip(lows, named, strict=True)]
            image = Image.fromarray(np.stack(grey, axis=-1).astype(np.uint8))
            content = io.BytesIO()
            image.resize((size, size), Image.Resampling.BOX).save(content, "JPEG", quality=quality, subsampling="4:4:4")
            labels: dict[str, int | None] = dict.fromkeys(LABELS)
            sink.write({"__key__": f"{number:06d}", "jpg": content.getvalue(), "json": {"labels": labels}})
