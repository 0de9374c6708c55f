"""Stored values of one image: decoded, masked, sign-extended, with padding found and known faults undone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

from shards import clean, elements
from shards.codestream import CodestreamError, Header, header
from shards.decoder import SHARED, DecodeError
from shards.reason import Fault, Reason

MAX_PIXELS = 4096 * 4096
"""Rows x columns x frames that are looked at at all: 64 times a 512 x 512 slice, 64 MB as int32."""

RSNA_MODULUS = 4096
"""2 to the 12: the values of RSNA's faulty files wrapped around when they were written."""

RSNA_SHIFT = 1000
"""HU; what was added before the wrap (`HU = ((raw + 1000) mod 4096) - 1000`)."""

RSNA_INTERCEPT = -100
"""HU; files with an intercept above it hold HU already, which an unsigned format cannot, hence the wrap."""

_Stored = npt.NDArray[np.int32]
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Format:
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
        Fault: one is missing or malformed, or their product is absurd.
    """
    rows, columns = elements.integer(dataset, "Rows"), elements.integer(dataset, "Columns")
    frames = elements.integer(dataset, "NumberOfFrames", 1)
    if min(rows, columns, frames) < 1 or rows * columns * frames > MAX_PIXELS:
        raise Fault(Reason.ABSURD_SIZE, f"{rows} x {columns} x {frames}, at most {MAX_PIXELS} pixels are accepted")
    return rows, columns, frames


def pixel_format(dataset: Dataset, rows: int, columns: int) -> Format:
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
    return Format(rows, columns, allocated, stored, high, bool(signed))


def check_length(dataset: Dataset, rows: int, columns: int) -> None:
    """Compare the bytes of an uncompressed frame with its size.

    Raises:
        Fault: there are fewer than needed.
    """
    needed = rows * columns * (elements.integer(dataset, "BitsAllocated") // 8)
    if len(dataset.PixelData) < needed:
        raise Fault(Reason.TRUNCATED_PIXELS, f"{len(dataset.PixelData)} bytes of {needed}")


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


def decode(dataset: Dataset, decoder: Decoder | None, form: Format) -> tuple[_Stored, _Mask | None, Format]:
    """Stored values and which of them are padding.

    Args:
        dataset: with PixelData.
        decoder: of the transfer syntax; None where the pixels are not encapsulated.
        form: the sample format by the DICOM header.

    Returns:
        int32 [rows, columns]; bool [rows, columns] or None; and the format that the values really have.

    Raises:
        Fault: the pixels cannot be decoded.
    """
    if decoder is None:
        cells = _native(dataset, form)
    else:
        cells, form = _decompress(dataset, decoder, form)
    bits = cells.view(f"u{cells.dtype.itemsize}")
    if (form.stored, form.high) == (8 * cells.dtype.itemsize, 8 * cells.dtype.itemsize - 1):
        values = (cells.view(f"i{cells.dtype.itemsize}") if form.signed else bits).astype(np.int32)
    else:
        # Bits above HighBit may hold overlays or rubbish (PS3.5 8.1.1); the sign sits at HighBit.
        values = bits.astype(np.int32)
        if form.high >= form.stored:
            values >>= form.high - form.stored + 1
        values &= (1 << form.stored) - 1
        if form.signed:
            sign = 1 << (form.stored - 1)
            values ^= sign
            values -= sign
    return values, _padding(dataset, bits, values, form), form


def undo_rsna_fault(stored: _Stored, form: Format, slope: float, intercept: float) -> tuple[_Stored, float, float]:
    """Unwrap the values of RSNA's faulty 12-bit files; others pass through.

    Their values are HU that were written into 12 unsigned bits, with a rescale that does not say so. The fault is
    recognised by PixelRepresentation 0, BitsStored 12 and an intercept above -100 HU.

    Returns:
        Stored values, slope and intercept such that `HU = stored * slope + intercept`.
    """
    if form.signed or form.stored != 12 or intercept <= RSNA_INTERCEPT:
        return stored, slope, intercept
    unwrapped = stored + RSNA_SHIFT
    unwrapped &= RSNA_MODULUS - 1  # the remainder by a power of two, also of negative numbers
    unwrapped -= RSNA_SHIFT
    return unwrapped, 1.0, 0.0


def undo_inversion(stored: _Stored, form: Format, slope: float, intercept: float) -> _Stored:
    """The values of a MONOCHROME1 image, turned round where they were stored inverted.

    By PS3.3 C.7.6.3.1.2 MONOCHROME1 concerns the display only, and the rescale gives HU all the same. But files exist
    whose values are inverted within BitsStored as well. What surrounds a head decides: it is air.
    """
    low, high = (
        (-(1 << (form.stored - 1)), (1 << (form.stored - 1)) - 1) if form.signed else (0, (1 << form.stored) - 1)
    )
    border = np.concatenate([stored[0], stored[-1], stored[1:-1, 0], stored[1:-1, -1]])
    middle = float(np.median(border))
    as_it_is = abs(middle * slope + intercept - clean.AIR)
    turned = abs((low + high - middle) * slope + intercept - clean.AIR)
    return low + high - stored if turned < as_it_is else stored


def _native(dataset: Dataset, form: Format) -> npt.NDArray[np.integer]:
    content, count = dataset.PixelData, form.rows * form.columns
    little = dataset.original_encoding[1] is not False
    if form.allocated == 16:
        words = np.frombuffer(content, "<u2" if little else ">u2", count).astype(np.uint16, copy=False)
        return words.reshape(form.rows, form.columns)
    cells = np.frombuffer(content, np.uint8, count)
    if not little:  # Big endian pixels are 16-bit words, so that bytes come in swapped pairs (PS3.5 7.3, A.3).
        even = np.frombuffer(content[: len(content) // 2 * 2], np.uint16).byteswap().view(np.uint8)
        if even.size < count:
            raise Fault(Reason.TRUNCATED_PIXELS, f"{even.size} bytes of {count}")
        cells = even[:count]
    return cells.reshape(form.rows, form.columns)


def _decompress(dataset: Dataset, decoder: Decoder, form: Format) -> tuple[npt.NDArray[np.integer], Format]:
    syntax = decoder.UID
    if syntax in (*JPEG2000TransferSyntaxes, *JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes):
        own = _check_codestream(dataset, form)
        if syntax in JPEG2000TransferSyntaxes:
            # A signed codestream gives signed values, whatever PixelRepresentation says. An unsigned one under
            # PixelRepresentation 1 holds two's complement of its own precision, which the decoder undoes.
            form = Format(
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
        cells = SHARED.decode(syntax, bytes(dataset.PixelData), options)
    except DecodeError as error:
        raise Fault(Reason.UNDECODABLE_PIXELS, f"{syntax.name} ({error})") from error
    if cells.size != form.rows * form.columns or cells.dtype.kind not in "iu" or cells.dtype.itemsize > 2:
        raise Fault(Reason.CODESTREAM_MISMATCH, f"decoded to {cells.size} values of {cells.dtype}")
    cells = cells.reshape(form.rows, form.columns)
    native = cells.astype(cells.dtype.newbyteorder("="), copy=False)
    if form.high >= 8 * native.dtype.itemsize:
        raise Fault(Reason.CODESTREAM_MISMATCH, f"{form.stored} bits stored, decoded to {cells.dtype}")
    return np.ascontiguousarray(native), form


def _check_codestream(dataset: Dataset, form: Format) -> Header:
    try:
        own = header(get_frame(dataset.PixelData, 0, number_of_frames=1))
    except CodestreamError as error:
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


def _padding(dataset: Dataset, bits: npt.NDArray[np.integer], values: _Stored, form: Format) -> _Mask | None:
    """Which pixels are padding (PS3.3 C.7.5.1.1.2), found by value or, beyond BitsStored, by the cell's whole bits."""
    if elements.raw(dataset, "PixelPaddingValue") is None:
        return None
    pattern = _cell(dataset, "PixelPaddingValue", form)
    padding = _signed(pattern, form)
    if elements.raw(dataset, "PixelPaddingRangeLimit") is None:
        found: _Mask = values == padding
    else:
        low, high = sorted((padding, _signed(_cell(dataset, "PixelPaddingRangeLimit", form), form)))
        found = (values >= low) & (values <= high)
    if pattern >> (form.high + 1) and not form.signed:
        found |= bits == pattern
    return found


def _cell(dataset: Dataset, keyword: str, form: Format) -> int:
    """The element as the bits of one cell; files write it signed or unsigned as they like."""
    value = elements.raw(dataset, keyword)
    number = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else elements.integer(dataset, keyword)
    return number & ((1 << form.allocated) - 1)


def _signed(pattern: int, form: Format) -> int:
    return pattern - (1 << form.allocated) if form.signed and pattern >> (form.allocated - 1) else pattern
