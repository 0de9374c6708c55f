"""From PixelData to the stored values of one image: how they are packed, decoding, masks and signs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGExtended12Bit,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from shards.dicom import codestream, elements
from shards.dicom.decoder_process import SHARED, DecodeError
from shards.dicom.reasons import Fault, Reason

MAX_PIXELS = 4096 * 4096
"""Most pixels of the smallest square that holds an image: 64 times a 512 x 512 slice.

That square is what `picture.geometry.cut` allocates, 64 MB as int32, and no later step makes an image larger than it:
pixels that are not square are averaged in their finer direction, and the square around a head lies within.
"""

MAX_FRAGMENTS = 100_000
"""Pieces of an encapsulated frame (PS3.5 A.4) that are joined: files mostly have one, at times some hundred."""

_ITEM = b"\xfe\xff\x00\xe0"
"""Item (FFFE,E000), which begins a fragment."""

Stored = npt.NDArray[np.integer]
"""Stored values: integers of 32 bits or fewer."""


@dataclass(frozen=True)
class PixelFormat:
    """The Image Pixel module (PS3.3 C.7.6.3), as far as one monochrome frame needs it.

    Attributes:
        rows: Rows (0028,0010).
        columns: Columns (0028,0011).
        allocated: Bits Allocated (0028,0100), 8 or 16.
        stored: Bits Stored (0028,0101).
        high: High Bit (0028,0102).
        signed: Pixel Representation (0028,0103) is 1.
    """

    rows: int
    columns: int
    allocated: int
    stored: int
    high: int
    signed: bool


def image_size(dataset: Dataset) -> tuple[int, int, int]:
    """Rows, columns and frames, checked before anything of that size is allocated.

    Raises:
        Fault: one is missing or malformed, or together they are absurd.
    """
    rows, columns = elements.integer(dataset, "Rows"), elements.integer(dataset, "Columns")
    frames = elements.integer(dataset, "NumberOfFrames", 1)
    if min(rows, columns, frames) < 1 or max(rows, columns) ** 2 > MAX_PIXELS:
        raise Fault(
            Reason.ABSURD_SIZE,
            f"{rows} x {columns} x {frames}, at most {MAX_PIXELS} pixels are accepted in the square around a frame",
        )
    return rows, columns, frames


def pixel_format(dataset: Dataset, rows: int, columns: int) -> PixelFormat:
    """The sample format.

    Raises:
        Fault: an element is missing, or the format is not one of CT.
    """
    allocated = elements.integer(dataset, "BitsAllocated")
    stored = elements.integer(dataset, "BitsStored")
    high = elements.integer(dataset, "HighBit", stored - 1)
    signed = elements.integer(dataset, "PixelRepresentation")
    if allocated not in (8, 16) or not 1 <= stored <= allocated or not stored - 1 <= high < allocated:
        raise Fault(Reason.UNSUPPORTED_BITS, f"{allocated} bits allocated, {stored} stored, high bit {high}")
    if signed not in (0, 1):
        raise Fault(Reason.BAD_VALUE, f"PixelRepresentation is {signed}, not 0 or 1")
    return PixelFormat(rows, columns, allocated, stored, high, bool(signed))


def check_length(dataset: Dataset, rows: int, columns: int, given: int) -> None:
    """Compare the bytes of an uncompressed frame with its size.

    Raises:
        Fault: there are fewer than needed.
    """
    needed = rows * columns * (elements.integer(dataset, "BitsAllocated") // 8)
    if given < needed:
        raise Fault(Reason.TRUNCATED_PIXELS, f"{given} bytes of {needed}")


def find_decoder(syntax: UID) -> Decoder:
    """The decoder of a transfer syntax with encapsulated pixels.

    Raises:
        Fault: there is none.
    """
    name = syntax.name if syntax.is_transfer_syntax and not syntax.is_private else "an unknown transfer syntax"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise Fault(Reason.UNDECODABLE_SYNTAX, name) from error
    if not decoder.is_available:
        raise Fault(Reason.UNDECODABLE_SYNTAX, f"{name}: its decoder plugin is not installed")
    return decoder


def native(
    content: bytes, form: PixelFormat, *, start: int = 0, little: bool = True
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """The cells of an uncompressed frame [rows, columns], a view of `content` where they are little endian.

    Args:
        content: bytes that hold the frame.
        form: the sample format by the DICOM header.
        start: where the frame begins in `content`.
        little: whether the least significant byte comes first.

    Raises:
        Fault: there are too few bytes.
    """
    count = form.rows * form.columns
    if form.allocated == 16:
        words = np.frombuffer(content, "<u2" if little else ">u2", count, start).astype(np.uint16, copy=False)
        return words.reshape(form.rows, form.columns)
    if little:
        return np.frombuffer(content, np.uint8, count, start).reshape(form.rows, form.columns)
    # Big endian pixels are 16-bit words, so that bytes come in swapped pairs (PS3.5 7.3, A.3).
    even = np.frombuffer(content, np.uint16, (len(content) - start) // 2, start).byteswap().view(np.uint8)
    if even.size < count:
        raise Fault(Reason.TRUNCATED_PIXELS, f"{even.size} bytes of {count}")
    return even[:count].reshape(form.rows, form.columns)


def from_cells(cells: npt.NDArray[np.integer], form: PixelFormat) -> tuple[Stored, tuple[int, int]]:
    """The stored values in the cells of 8 or 16 bits, in as many bits: without the bits that are no part of them.

    Where the cells hold nothing else, they are returned as they are.

    Returns:
        Integers [rows, columns], and the smallest and the largest of them.
    """
    width = 8 * cells.dtype.itemsize
    bits = cells.view(f"u{cells.dtype.itemsize}")
    values: Stored = cells.view(f"i{cells.dtype.itemsize}") if form.signed else bits
    bounds = extremes(values)
    # Bits above HighBit may hold overlays or rubbish (PS3.5 8.1.1); the sign sits at HighBit.
    kind, shift, mask = bits.dtype.type, form.high - form.stored + 1, (1 << form.stored) - 1
    low, high = (-(mask + 1) // 2, mask >> 1) if form.signed else (0, mask)
    if form.stored == width or (shift == 0 and bounds[0] >= low and bounds[1] <= high):
        return values, bounds
    values = bits >> kind(shift) & kind(mask)
    if form.signed:
        sign = kind(1 << (form.stored - 1))
        values ^= sign
        values -= sign  # wraps into two's complement
        values = values.view(f"i{cells.dtype.itemsize}")
    return values, extremes(values)


def extremes(values: Stored) -> tuple[int, int]:
    """The smallest and the largest value."""
    return int(np.minimum.reduce(values, axis=None)), int(np.maximum.reduce(values, axis=None))


def decompress(content: bytes, decoder: Decoder, form: PixelFormat) -> tuple[npt.NDArray[np.integer], PixelFormat]:
    """The cells of an encapsulated frame [rows, columns], and the format that they really have.

    Args:
        content: the bytes of PixelData, encapsulated.
        decoder: decoder of the transfer syntax.
        form: the sample format by the DICOM header.

    Raises:
        Fault: the pixels cannot be decoded.
    """
    syntax = decoder.UID
    own: codestream.CodestreamHeader | None = None
    if syntax in (*JPEG2000TransferSyntaxes, *JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes):
        own = _check_codestream(content, form)
        if syntax == JPEGExtended12Bit and own.precision > 8:
            raise Fault(
                Reason.UNDECODABLE_SYNTAX, f"{syntax.name} of {own.precision} bits a pixel, at most 8 are decoded"
            )
        if syntax in JPEG2000TransferSyntaxes:
            # A signed codestream gives signed values, whatever PixelRepresentation says. An unsigned one under
            # PixelRepresentation 1 holds two's complement of its own precision, which the decoder undoes.
            form = PixelFormat(
                form.rows, form.columns, form.allocated, own.precision, own.precision - 1, form.signed or own.signed
            )
    options: dict[str, str | int] = {
        "rows": form.rows,
        "columns": form.columns,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": form.allocated,
        "bits_stored": min(form.stored, form.allocated),
        "pixel_representation": int(form.signed),
        "pixel_keyword": "PixelData",
    }
    try:
        cells = SHARED.decode(syntax, content, options)
    except DecodeError as error:
        raise Fault(Reason.UNDECODABLE_PIXELS, f"{syntax.name} ({error})") from error
    if cells.size != form.rows * form.columns or cells.dtype.kind not in "iu" or cells.dtype.itemsize > 2:
        raise Fault(Reason.CODESTREAM_MISMATCH, f"decoded to {cells.size} values of {cells.dtype}")
    cells = cells.reshape(form.rows, form.columns)
    native = cells.astype(cells.dtype.newbyteorder("="), copy=False)
    if own is not None and not form.signed and own.precision < 8 * native.itemsize and native.max() >> own.precision:
        raise Fault(Reason.SCRAMBLED, f"decoded to values of {native.max()}, the codestream has {own.precision} bits")
    if form.high >= 8 * native.dtype.itemsize:
        raise Fault(Reason.CODESTREAM_MISMATCH, f"{form.stored} bits stored, decoded to {cells.dtype}")
    return np.ascontiguousarray(native), form


def _check_codestream(content: bytes, form: PixelFormat) -> codestream.CodestreamHeader:
    fragments = content.count(_ITEM)  # Also by chance, but once in four billion bytes.
    if fragments > MAX_FRAGMENTS:
        raise Fault(Reason.UNDECODABLE_PIXELS, f"about {fragments} fragments, at most {MAX_FRAGMENTS} are joined")
    try:
        own = codestream.read_header(get_frame(content, 0, number_of_frames=1))
    except codestream.CodestreamError as error:
        raise Fault(Reason.UNDECODABLE_PIXELS, str(error)) from error
    except Exception as error:
        raise Fault(
            Reason.UNDECODABLE_PIXELS, f"no frame in the encapsulated pixels ({type(error).__name__})"
        ) from error
    if (own.rows, own.columns, own.components) != (form.rows, form.columns, 1) or own.precision > form.allocated:
        raise Fault(
            Reason.CODESTREAM_MISMATCH,
            f"codestream {own.rows} x {own.columns} x {own.components} of {own.precision} bits, "
            f"header {form.rows} x {form.columns} x 1 of {form.allocated}",
        )
    return own
