"""Sounds on the host: any file as a waveform, the log-mel filter bank, augmentation of waveforms and of features.

Waveforms are (samples,) float64 in -1..1, features (frames, mels) natural logarithms of energies. Sources: Kaldi's
compute-fbank-feats as torchaudio's compliance.kaldi calls it, and the original's Audio/src/dataloader.py.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import logging
import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from unireplknet_jax.data.files import EncodedFile, misplaced, read_file
from unireplknet_jax.data.limits import check_seconds
from unireplknet_jax.data.sounds.containers import (
    decoded_by_ffmpeg,
    is_estimated,
    parts_of,
    states_no_length,
    with_length,
)

FFMPEG_SUFFIXES = (".m4a", ".m4b", ".aac", ".mp4", ".3gp", ".amr", ".wma", ".webm", ".mka", ".ac3")
SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", *FFMPEG_SUFFIXES)
WINDOWS = ("hanning", "hamming", "povey")
FLOOR = 1.1920929e-7  # float32's epsilon, Kaldi's smallest energy
RATES = (100, 1_000_000)  # samples a second of a file; resampling others would fill the memory

LOUDEST = 16.0  # of a waveform: beyond what clips, and far below 16-bit numbers that nobody divided
CHANNELS = ("mean", "first", "loudest")
_BLOCK = 1 << 20  # numbers that are decoded at a time
_MOST_BYTES, _MOST_BYTES_A_BYTE = 1 << 27, 256  # of decoded sound: silence can be packed a million to one
CANCELLED = 0.05  # of the loudest channel: what the mean of channels of opposite polarity falls below
_EXPECTED = "a WAV, FLAC, Ogg or MP3 file, or with PyAV an M4A, AAC, WMA or WebM file"
_log = logging.getLogger(__name__)


def read_sound(
    source: str | os.PathLike | EncodedFile | np.ndarray, rate: int, channels: str = "mean", scale: float = 1.0
) -> np.ndarray:
    """The waveform (samples,) float64 of a file of any rate, channels and length at `rate` samples a second.

    source: a path, the bytes of a file, or a waveform (samples,) of floats that has the rate already. Other rates are
    resampled by a windowed-sinc polyphase filter, where the original reads the samples as if they had its rate.
    channels: what becomes of several, "mean", "first" (the original) or "loudest"; the loudest takes the place of a
    mean in which channels of opposite polarity cancel, which is said in the log.
    scale: what samples in files of floats are divided by: 32768 where they hold 16-bit numbers.

    Raises ValueError with the file's name where it holds no readable, finite, non-empty sound, or samples far outside
    of -1..1, ImportError without the package soundfile.
    """
    if isinstance(source, np.ndarray):
        return _checked_waveform(source, rate)
    file = read_file(source, "a sound file")
    parts = [
        _resample(_one_channel(samples, channels, file.name), found, rate)
        for samples, found in _decode(file, file.name, scale)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _one_channel(samples: np.ndarray, channels: str, name: str) -> np.ndarray:
    """(samples, channels) -> (samples,)."""
    if samples.shape[1] == 1 or channels == "first":
        return samples[:, 0]
    power = np.mean(np.square(samples), axis=0)
    loudest = samples[:, np.argmax(power)]
    if channels == "loudest":
        return loudest
    mean = samples.mean(axis=1)
    if np.mean(np.square(mean)) < CANCELLED**2 * power.max():
        _log.warning("%s: its channels cancel each other, so the loudest of them is taken", name)
        return loudest
    return mean


def _checked_waveform(samples: np.ndarray, rate: int) -> np.ndarray:
    expected = f"expected floats (samples,) from -1 to 1, {rate:,} of them a second"
    if samples.dtype.kind != "f" or samples.ndim != 1 or not len(samples):
        raise ValueError(f"an array of {samples.dtype} {samples.shape} is not a waveform; {expected}")
    largest = float(np.max(np.abs(samples)))
    if not largest <= LOUDEST:  # so written NaN is refused
        raise ValueError(f"the waveform of {len(samples):,} samples reaches {largest:g}; {expected}")
    return samples.astype(np.float64, copy=False)


def _decode(data: bytes, name: str, scale: float = 1.0) -> list[tuple[np.ndarray, int]]:
    """((samples, channels) float64, samples a second) of each of the sounds that follow each other in a file."""
    what = misplaced(data)
    if what:
        raise ValueError(f"{name} is {what}; expected {_EXPECTED}")
    found, seconds = [], 0.0
    for part in parts_of(data):
        found.append(_decode_part(part, name, scale))
        seconds += len(found[-1][0]) / found[-1][1]
        check_seconds(seconds, name)
    return found


def _decode_part(data: bytes, name: str, scale: float) -> tuple[np.ndarray, int]:
    try:
        import soundfile
    except ImportError as error:
        raise ImportError(
            'reading sounds needs soundfile, which is missing: pip install "unireplknet_jax[audio]"'
        ) from error
    if states_no_length(data):
        _log.warning("%s states no length, as a recording that was interrupted: all of it is read", name)
        data = with_length(data)
    try:
        with soundfile.SoundFile(_Bytes(data)) as file:
            expected, rate, of_floats = file.frames, file.samplerate, file.subtype in ("FLOAT", "DOUBLE")
            some = max(1, _BLOCK // file.channels)
            blocks = (file.read(some, dtype="float64", always_2d=True) for _ in itertools.count())
            samples = _joined(blocks, len(data), rate, name)
    except (soundfile.SoundFileError, TypeError) as error:
        samples, rate, expected = _decode_otherwise(data, name, error)
        of_floats = False
    if not len(samples):
        raise ValueError(f"{name} holds no samples; expected a sound of some length")
    # Where the length was not known, as in a pipe, it is written as about the largest there is.
    shorter = len(samples) < expected < 2**62 and not is_estimated(data)
    if len(data) < _end_of_samples(data) < 2**30 or shorter:
        raise ValueError(f"{name} is cut off after {len(samples):,} samples; fetch it again")
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"{name} states {rate:,} samples a second; expected {RATES[0]:,} to {RATES[1]:,}")
    if not np.all(np.isfinite(samples)):
        raise ValueError(f"{name} holds samples that are not finite; expected numbers from -1 to 1")
    if of_floats and scale != 1:
        samples /= scale
    largest = float(np.max(np.abs(samples)))
    if largest > LOUDEST:  # in files of floats only; libsndfile divides whole numbers
        raise ValueError(
            f"{name} holds samples up to {largest:g}; expected numbers from -1 to 1, so divide them, by 32,768 if they "
            "were 16-bit numbers, or give that as task.options.scale"
        )
    return samples, rate


class _Bytes(io.BytesIO):
    """Bytes whose damaged headers may ask for places that are not there: an error in `seek` would be printed."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return super().seek(0)


def _joined(blocks: Iterable[np.ndarray], size: int, rate: int, name: str) -> np.ndarray:
    """Blocks (n, channels) of `rate` samples a second as one array, up to an empty one.

    ValueError for more than a file of `size` bytes may be, and for more than `data.limits` allows.
    """
    found, most = [], _MOST_BYTES + _MOST_BYTES_A_BYTE * size
    samples = numbers = 0
    for block in blocks:
        most, samples, numbers = most - block.nbytes, samples + len(block), numbers + block.size
        check_seconds(samples / max(rate, RATES[0]), name, numbers)
        if most < 0:
            raise ValueError(f"{name} holds far more sound than a file of {size:,} bytes should; cut it into parts")
        found.append(block)
        if not len(block):
            break
    return np.concatenate(found) if found else np.zeros((0, 1))


def _decode_otherwise(data: bytes, name: str, error: Exception) -> tuple[np.ndarray, int, int]:
    """(samples, rate, how many were expected at least), by FFmpeg: what libsndfile refuses, such as AAC."""
    if name.lower().endswith(FFMPEG_SUFFIXES):
        try:
            found = decoded_by_ffmpeg(data, lambda blocks, rate: _joined(blocks, len(data), rate, name))
        except ImportError:
            raise ValueError(
                f'{name} is read with PyAV, which is missing: pip install "unireplknet_jax[video]"'
            ) from error
        if found is not None:
            return found
    raise ValueError(f"{name} cannot be read as sound, or is damaged; expected {_EXPECTED}") from error


def _end_of_samples(data: bytes) -> int:
    """Where the samples of a WAV or AIFF file end by its own account, in bytes, which libsndfile does not tell; else 0.

    The length of the whole file, which stands at its beginning, is wrong in files of many programs.
    """
    order, wanted = {b"RIFF": ("little", b"data"), b"FORM": ("big", b"SSND")}.get(data[:4], ("little", b""))
    start = 12
    while wanted and start + 8 <= len(data):
        size = int.from_bytes(data[start + 4 : start + 8], order)
        if data[start : start + 4] == wanted:
            return start + 8 + size
        start += 8 + size + size % 2
    return 0


def _resample(samples: np.ndarray, found: int, rate: int) -> np.ndarray:
    if found == rate:
        return samples
    from scipy.signal import resample_poly

    common = math.gcd(found, rate)
    return resample_poly(samples, rate // common, found // common)


@dataclasses.dataclass(frozen=True)
class FilterBank:
    """The log-mel filter bank of Kaldi in float64: (samples,) -> (frames, mels).

    rate: samples a second; mels: filters from `low` to `high` Hz (0: half the rate); width, shift: of a frame, in
    milliseconds; window: "hanning" (the original's code), "hamming" (the AST paper's text) or "povey" (Kaldi's own).
    With many filters on short frames the lowest are narrower than a bin of the transform, and one may be empty: its
    feature is the floor, -15.94, in every sound. That is what the published networks were trained on.
    """

    rate: int = 16_000
    mels: int = 128
    width: float = 25.0
    shift: float = 10.0
    low: float = 20.0
    high: float = 0.0
    window: str = "hanning"
    preemphasis: float = 0.97

    def __post_init__(self):
        if self.window not in WINDOWS:
            raise ValueError(f"window is {self.window!r}; expected one of {', '.join(WINDOWS)}")
        if self.mels < 1 or self.width_samples < 2 or self.shift_samples < 1:
            raise ValueError(
                f"mels={self.mels}, width={self.width}, shift={self.shift} ms at {self.rate} Hz make no filter bank: "
                "expected 1 filter or more, frames of 2 samples or more and a shift of 1 sample or more"
            )
        if not 0 <= self.low < self._highest <= self.rate / 2:
            raise ValueError(
                f"filters from {self.low:g} to {self._highest:g} Hz do not fit {self.rate} samples a second; expected "
                f"0 <= low < high <= {self.rate / 2:g}"
            )

    @property
    def width_samples(self) -> int:
        return int(self.rate * self.width / 1000)

    @property
    def shift_samples(self) -> int:
        return int(self.rate * self.shift / 1000)

    @property
    def _highest(self) -> float:
        return self.high if self.high > 0 else self.rate / 2 + self.high

    @functools.cached_property
    def taper(self) -> np.ndarray:
        """(width,): the symmetric window."""
        ramp = np.cos(2 * np.pi * np.arange(self.width_samples) / (self.width_samples - 1))
        if self.window == "hamming":
            return 0.54 - 0.46 * ramp
        hann = 0.5 - 0.5 * ramp
        return hann if self.window == "hanning" else hann**0.85

    @functools.cached_property
    def weights(self) -> np.ndarray:
        """(mels, size / 2): triangles of height 1, equally spaced in mel, over the bins of the next power of two."""
        half = 2 ** (self.width_samples - 1).bit_length() // 2
        edges = np.linspace(_mel(self.low), _mel(self._highest), self.mels + 2)[:, None]
        left, centre, right = edges[:-2], edges[1:-1], edges[2:]
        bins = _mel(np.arange(half) * self.rate / (2 * half))
        return np.maximum(0, np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)))

    @functools.cached_property
    def _sparse(self):
        """The filters without their zeros: a dense product would start BLAS threads in every thread that reads."""
        from scipy.sparse import csr_array

        return csr_array(self.weights)

    def frames(self, samples: int) -> int:
        """How many frames a waveform of so many samples has; one that is shorter than a frame is padded to one."""
        return 1 + max(samples - self.width_samples, 0) // self.shift_samples

    def samples(self, frames: int) -> int:
        """The samples that so many frames span."""
        return self.width_samples + (frames - 1) * self.shift_samples

    def row_of(self, frequency: float) -> float:
        """The filter whose middle is a frequency in Hz, between two filters a fraction."""
        low = _mel(self.low)
        return float((_mel(frequency) - low) / (_mel(self._highest) - low) * (self.mels + 1) - 1)

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """waveform: (samples,) -> (frames, mels) float64; what is shorter than a frame is padded with zeros."""
        waveform = np.asarray(waveform, np.float64)
        short = self.width_samples - len(waveform)
        if short > 0:
            waveform = np.pad(waveform, (0, short))
        frames = np.lib.stride_tricks.sliding_window_view(waveform, self.width_samples)[:: self.shift_samples]
        frames = frames - frames.mean(axis=1, keepdims=True)
        before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        half = self.weights.shape[1]
        spectrum = np.fft.rfft((frames - self.preemphasis * before) * self.taper, n=2 * half)[:, :half]
        power = spectrum.real**2 + spectrum.imag**2
        return np.log(np.maximum((self._sparse @ power.T).T, FLOOR))


def _mel(frequency):
    return 1127 * np.log1p(np.asarray(frequency, np.float64) / 700)


def centred(waveform: np.ndarray) -> np.ndarray:
    """The waveform without its mean."""
    return waveform - waveform.mean()


def mix(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """share * first + (1 - share) * second, means removed before and after; second is cut or padded to the first."""
    second = centred(second)[: len(first)]
    second = np.pad(second, (0, len(first) - len(second)))
    return centred(share * centred(first) + (1 - share) * second)


def fit_frames(features: np.ndarray, frames: int, fill: float = 0.0) -> np.ndarray:
    """(frames', mels) -> (frames, mels): the end is cut off, or filled with `fill`."""
    features = features[:frames]
    return np.pad(features, ((0, frames - len(features)), (0, 0)), constant_values=fill)


def mask_bands(
    features: np.ndarray, rng: np.random.Generator, freq_mask: int, time_mask: int, fill: float = 0.0
) -> np.ndarray:
    """SpecAugment: one band of frequencies and one of frames set to `fill`; a copy.

    A band is 0 to mask - 1 wide, and lies anywhere (torchaudio's FrequencyMasking and TimeMasking).
    """
    features = features.copy()
    for axis, mask in ((1, freq_mask), (0, time_mask)):
        if mask:
            size = features.shape[axis]
            width = rng.random() * min(mask, size)
            start = int(rng.random() * (size - width))
            band = slice(start, start + int(width))
            features[(slice(None), band) if axis else band] = fill
    return features


def add_noise(features: np.ndarray, rng: np.random.Generator, level: float) -> np.ndarray:
    """Add uniform noise from 0 to a strength drawn from 0..level, as the original does after normalization."""
    return features + rng.random(features.shape) * (rng.random() * level)


def roll_frames(features: np.ndarray, rng: np.random.Generator, most: int) -> np.ndarray:
    """Turn the frames in a circle by -most to most - 1."""
    return np.roll(features, rng.integers(-most, most), axis=0) if most else features


def windows(waveform: np.ndarray, size: int) -> list[np.ndarray]:
    """Waveforms of at most `size` samples that cover a long one: each begins half a window later, the last ends it."""
    return [waveform[start : start + size] for start in window_starts(len(waveform), size)]


def window_starts(samples: int, size: int) -> list[int]:
    """Where the `windows` of so many samples begin."""
    last = samples - size
    return [0] if last <= 0 else [*range(0, last, max(size // 2, 1)), last]


def why_broken(example: dict[str, Any], scale: float = 1.0) -> str | None:
    """The sentence that names the file of an example and says why it cannot be read as sound; None where it can."""
    if not isinstance(example["sound"], np.ndarray):
        try:
            _decode(example["sound"], example["path"], scale)
        except ValueError as error:
            return str(error)
    return None
