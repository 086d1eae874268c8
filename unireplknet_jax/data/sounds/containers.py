"""What libsndfile does not see of sound files: others after the first in one file, the length of an MP3, and AAC."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

# Kilobits a second of layer III by index, of MPEG 1 and of MPEG 2 and 2.5 (ISO/IEC 11172-3 and 13818-3).
_BITRATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_RATES = (44_100, 48_000, 32_000)  # of MPEG 1; half of it in MPEG 2, a quarter in 2.5
_LARGEST = 1441  # bytes of a frame
_FORMS: dict[bytes, Literal["little", "big"]] = {b"RIFF": "little", b"FORM": "big"}
_FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")  # with the head of its first block, which is of one size
_TELLING = ("mov", "matroska", "asf")  # containers that tell how long they are, and do not guess it
_LEAST_FRAMES = 3  # that follow each other in what is taken for an MP3


def parts_of(data: bytes) -> list[bytes]:
    """A file as the files that were put one after the other into it, of Ogg, MP3, FLAC, WAV and AIFF.

    Any other one is a single part. A tag of an MP3 before a file of another kind is left out.
    """
    data = _without_tag(data)
    if data[:4] == b"fLaC":
        starts = [match.start() for match in _FLAC.finditer(data)]
    elif data[:4] in _FORMS:
        starts = list(_form_starts(data, _FORMS[data[:4]]))
    elif data[:4] == b"OggS":
        starts = list(_ogg_starts(data))
    elif is_mp3(data):
        starts = _mp3_starts(data)
    else:
        starts = []
    ends = [*starts[1:], len(data)]
    return [data[start:end] for start, end in zip(starts, ends, strict=False)] or [data]


def _without_tag(data: bytes) -> bytes:
    if data[:3] != b"ID3":
        return data
    rest = data[_end_of_tag(data, 0) :]
    return rest if rest[:4] in (b"fLaC", b"OggS", *_FORMS) else data


def _form_starts(data: bytes, order: Literal["little", "big"]) -> Iterator[int]:
    """Where a RIFF or FORM begins, and those that follow it."""
    start, kind = 0, data[:4]
    while data[start : start + 4] == kind and start + 12 <= len(data):
        yield start
        size = int.from_bytes(data[start + 4 : start + 8], order)
        start += 8 + size + size % 2


def _end_of_tag(data: bytes, start: int) -> int:
    sizes = zip(data[start + 6 : start + 10], (21, 14, 7, 0), strict=True)
    return start + 10 + sum((byte & 0x7F) << shift for byte, shift in sizes)


def is_mp3(data: bytes) -> bool:
    """Whether a file begins with frames of an MP3, after its ID3 tag."""
    return sum(1 for _, _ in zip(range(_LEAST_FRAMES), _mp3_frames(data, strict=True), strict=False)) == _LEAST_FRAMES


def is_estimated(data: bytes) -> bool:
    """Whether libsndfile can but guess how long a file is: an MP3 whose first frame does not tell."""
    first = next(_mp3_frames(data), None) if is_mp3(data) else None
    return first is not None and _stated_frames(data, *first) == 0


def _ogg_starts(data: bytes) -> Iterator[int]:
    """Where a chain of streams begins anew: at a page that begins a stream, and does not follow another such page."""
    start, before = 0, False
    while start >= 0 and start + 27 <= len(data):
        begins = bool(data[start + 5] & 2)
        if begins and not before:
            yield start
        before = begins
        sizes = data[start + 27 : start + 27 + data[start + 26]]
        start = data.find(b"OggS", start + 27 + len(sizes) + sum(sizes))


def _mp3_starts(data: bytes) -> list[int]:
    """Where an MP3 begins anew: at a frame that tells a length, or after as many frames as one told."""
    starts: list[int] = []
    left: int | None = None  # frames of the part; None: up to the next that tells
    for start, size in _mp3_frames(data):
        stated = _stated_frames(data, start, size)
        if not starts or stated or (left == 0 and is_mp3(data[start : start + _LARGEST * _LEAST_FRAMES])):
            starts.append(start if starts else 0)
            left = stated or None
        elif left:
            left -= 1
    return starts


def _mp3_frames(data: bytes, strict: bool = False) -> Iterator[tuple[int, int]]:
    """Yield (start, size) of the frames of an MP3; tags and rubbish between them are passed over, unless `strict`."""
    start = 0
    while start + 4 <= len(data):
        if data[start : start + 3] == b"ID3" and start + 10 <= len(data):
            start = _end_of_tag(data, start)
            continue
        size = _frame_size(data[start : start + 4])
        if size:
            yield start, size
            start += size
        elif strict:
            return
        else:
            start = data.find(b"\xff", start + 1)
            if start < 0:
                return


def _frame_size(head: bytes) -> int:
    """The bytes of a frame of layer III with this head; 0 for what is none."""
    (bits,) = struct.unpack(">I", head)
    version, layer, bitrate, rate, padding = (
        bits >> 19 & 3,
        bits >> 17 & 3,
        bits >> 12 & 15,
        bits >> 10 & 3,
        bits >> 9 & 1,
    )
    if bits >> 21 != 0x7FF or version == 1 or layer != 1 or bitrate in (0, 15) or rate == 3:
        return 0
    first = version == 3
    samples = _RATES[rate] // (1 if first else 2 if version == 2 else 4)
    return (144 if first else 72) * 1000 * _BITRATES[0 if first else 1][bitrate] // samples + padding


def _stated_frames(data: bytes, start: int, size: int) -> int:
    """How many frames follow by the account of a frame "Xing" or "Info"; 0 of another frame."""
    frame = data[start : start + min(size, 64)]
    for name in (b"Xing", b"Info"):
        place = frame.find(name, 4)
        if place >= 0 and place + 12 <= len(frame) and frame[place + 7] & 1:
            return int.from_bytes(frame[place + 8 : place + 12], "big")
    return 0


def states_no_length(data: bytes) -> bool:
    """Whether a WAV says that it has no samples, but goes on with something that is no chunk."""
    start = _samples_of_wav(data)
    if not start or data[start - 4 : start] != bytes(4) or len(data) - start < 8:
        return False
    size = int.from_bytes(data[start + 4 : start + 8], "little")
    return not (data[start : start + 4].isalnum() and start + 8 + size <= len(data) + 1)


def with_length(data: bytes) -> bytes:
    """A WAV whose samples go on to its end."""
    start = _samples_of_wav(data)
    lengths = struct.pack("<I", len(data) - 8), struct.pack("<I", len(data) - start)
    return b"".join([data[:4], lengths[0], data[8 : start - 4], lengths[1], data[start:]])


def _samples_of_wav(data: bytes) -> int:
    """Where the samples of a WAV begin; 0 of another file."""
    start = 12 if data[:4] == b"RIFF" and data[8:12] == b"WAVE" else len(data)
    while start + 8 <= len(data):
        if data[start : start + 4] == b"data":
            return start + 8
        size = int.from_bytes(data[start + 4 : start + 8], "little")
        start += 8 + size + size % 2
    return 0


def decoded_by_ffmpeg(
    data: bytes, joined: Callable[[Iterator[np.ndarray], int], np.ndarray]
) -> tuple[np.ndarray, int, int] | None:
    """((samples, channels) float64, samples a second, how many its container tells) of the first sound in a file.

    joined: of blocks (n, channels) and the samples a second that the file states the array of all. None where FFmpeg
    finds no sound in it. Raises ImportError without PyAV.
    """
    import av

    try:
        with av.open(io.BytesIO(data), metadata_errors="ignore", options={"protocol_whitelist": "none"}) as container:
            if not container.streams.audio:
                return None
            stream = container.streams.audio[0]
            resampler = av.AudioResampler(format="dblp")
            rates: list[int] = []

            def blocks() -> Iterator[np.ndarray]:
                for frame in container.decode(stream):
                    rates.append(frame.sample_rate)  # the stream's own may be half of it, as of HE-AAC
                    for part in resampler.resample(frame):
                        yield part.to_ndarray().T

            samples = joined(blocks(), stream.rate or 0)
            if not rates:
                return None
            told = stream.duration * stream.time_base if stream.duration else None
            if told is None and len(container.streams) == 1 and container.duration:
                told = container.duration / 1e6
            told = told if container.format.name.startswith(_TELLING) else None
            return samples, rates[0], int(rates[0] * (0.95 * float(told) - 0.1)) if told else 0
    except av.error.FFmpegError:
        return None
