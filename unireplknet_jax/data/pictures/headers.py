"""What stands before the pixels of PNG and TIFF files, where Pillow refuses it or passes over it."""

from __future__ import annotations

import struct

PNG = b"\x89PNG\r\n\x1a\n"
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_TEXTS = (b"iCCP", b"tEXt", b"zTXt", b"iTXt")  # a colour profile and texts, which change no pixel
_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1


def program(data: bytes) -> str | None:
    """What a file is that Pillow would have another program run; None of another file."""
    is_program = data.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6"))
    return "a page of PostScript, which is not read: convert it" if is_program else None


def other_kind(data: bytes) -> str | None:
    """What a file is that Pillow cannot read, though it is a picture; None of another file."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC:
        return "a HEIC picture, which is not read: convert it, or let the telephone save JPEG"
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "a JPEG XL picture, which is not read: convert it"
    if data.startswith(b"%PDF"):
        return "a PDF, which is not read: convert it"
    return "an SVG drawing, which is not read: convert it" if b"<svg" in data[:1024] else None


def without_texts(data: bytes) -> bytes:
    """A PNG file without its texts and colour profile; what follows something that is no chunk stays as it is."""
    parts, start = [PNG], len(PNG)
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if data[start + 4 : start + 8] not in _TEXTS:
            parts.append(data[start:end])
        start = end
    return b"".join([*parts, data[start:]])


def black_is_zero(data: bytes) -> bytes | None:
    """A grey TIFF file of more than 8 bits whose 0 is white with a tag that says that 0 is black; None for other files.

    Pillow inverts such files of 8 bits alone. The first picture of a file is looked at.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 10:
        return None
    (directory,) = struct.unpack_from(f"{order}I", data, 4)
    found = {}
    for start in range(directory + 2, directory + 2 + 12 * 100, 12):
        if start + 12 > len(data):
            break
        tag, kind, count, value = struct.unpack_from(f"{order}HHIH", data, start)
        if kind == 3 and count == 1:  # one 16-bit number, which lies in the entry itself
            found.setdefault(tag, (value, start + 8))
    (bits, _), (photometric, place) = found.get(_BITS, (0, 0)), found.get(_PHOTOMETRIC, (_BLACK_IS_ZERO, 0))
    if bits <= 8 or photometric != _WHITE_IS_ZERO:
        return None
    return data[:place] + struct.pack(f"{order}H", _BLACK_IS_ZERO) + data[place + 2 :]
