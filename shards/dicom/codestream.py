"""Size and format of a compressed image by the codestream's own header, read before any decoder sees it.

A decoder allocates what the codestream asks for, whatever the DICOM header says. So the two are compared first.
Sources: ISO/IEC 15444-1 annex A (JPEG 2000), ISO/IEC 10918-1 annex B (JPEG), ISO/IEC 14495-1 annex C (JPEG-LS).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_J2K_START = b"\xff\x4f\xff\x51"  # SOC directly followed by SIZ
_JPEG_START = b"\xff\xd8"  # SOI
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}  # SOF0 to SOF15, SOF55 (JPEG-LS)
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length
_MAX_HEADER = 2**20  # bytes before the size of the image; comments and profiles come there, of 64 KiB each
_MAX_TILES = 1024  # tiles of one slice; real files have one or a few, an attacker's millions


@dataclass(frozen=True)
class CodestreamHeader:
    """Size and sample format of a codestream.

    Attributes:
        rows: image height.
        columns: image width.
        components: samples a pixel.
        precision: bits a sample.
        signed: whether the samples carry a sign; only JPEG 2000 says so.
    """

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool


class CodestreamError(ValueError):
    """The bytes hold no readable header of a JPEG, JPEG-LS or JPEG 2000 codestream."""


def read_header(frame: bytes) -> CodestreamHeader:
    """Read the header of a JPEG, JPEG-LS or JPEG 2000 frame (with or without the JP2 boxes).

    Raises:
        CodestreamError: there is none, or it is cut short or absurd.
    """
    frame = frame[:_MAX_HEADER]  # fill bytes are walked over one by one
    try:
        if frame[:2] == _JPEG_START:
            return _jpeg(frame)
        start = frame.find(_J2K_START, 0, 4096)
        if start >= 0:
            return _jpeg_2000(frame, start + 4)
    except (struct.error, IndexError) as error:
        raise CodestreamError("the codestream ends within its header") from error
    raise CodestreamError("no JPEG, JPEG-LS or JPEG 2000 codestream at the start of the frame")


def _jpeg(frame: bytes) -> CodestreamHeader:
    position = 2
    while True:
        if frame[position] != 0xFF:
            raise CodestreamError(f"no marker at byte {position}")
        marker = frame[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker in _JPEG_BARE:
            position += 2
        elif marker in _JPEG_FRAMES:
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, position + 4)
            return CodestreamHeader(rows, columns, components, precision, signed=False)
        elif marker in (0xD9, 0xDA):
            raise CodestreamError("the codestream has no frame header")
        else:
            position += 2 + max(2, struct.unpack_from(">H", frame, position + 2)[0])


def _jpeg_2000(frame: bytes, position: int) -> CodestreamHeader:
    # Lsiz, Rsiz, then image size and offset, tile size and offset, components (A.5.1).
    values = struct.unpack_from(">HHIIIIIIIIH", frame, position)
    width, height, left, top, tile_width, tile_height, tile_left, tile_top, components = values[2:]
    depth = frame[position + struct.calcsize(">HHIIIIIIIIH")]
    rows, columns = height - top, width - left
    if min(rows, columns, tile_width, tile_height) <= 0:
        raise CodestreamError("an image or tile side of the codestream is not positive")
    tiles = -(-(width - tile_left) // tile_width) * -(-(height - tile_top) // tile_height)
    if tiles > _MAX_TILES:
        raise CodestreamError(f"the codestream asks for {tiles} tiles, more than {_MAX_TILES}")
    return CodestreamHeader(rows, columns, components, (depth & 0x7F) + 1, signed=bool(depth & 0x80))
