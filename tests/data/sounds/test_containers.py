"""Sounds one after the other in one file, MP3s that do not tell their length, and what FFmpeg reads."""

import builtins
import io
from fractions import Fraction

import numpy as np
import pytest
import soundfile

from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.data.sounds import containers
from unireplknet_jax.data.sounds.sets import open_sounds
from unireplknet_jax.data.sounds.waveforms import read_sound

RATE = 16_000
TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
KINDS = {
    "mp3": {"format": "MP3"},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}


def encoded(samples, kind="mp3", rate=RATE, **options):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **KINDS.get(kind, {"format": kind.upper()}), **options)
    return file.getvalue()


def read(data, suffix="mp3"):
    return read_sound(EncodedFile(data, f"a.{suffix}"), RATE)


@pytest.mark.parametrize("kind", [*KINDS, "wav", "flac", "aiff"])
def test_all_sounds_of_a_file_are_heard(kind):
    one, two = encoded(TONE, kind), encoded(0.1 * TONE[: RATE // 2], kind)
    found = read(one + two + one, kind)
    np.testing.assert_array_equal(found, np.concatenate([read(one, kind), read(two, kind), read(one, kind)]))


def test_parts_may_have_tags_other_rates_and_no_stated_length():
    one, other = encoded(TONE), encoded(np.tile(TONE, 3), rate=48_000)
    tag = b"ID3\x04\0\0\0\0\x01\0" + bytes(128)
    parts = [read(one), read(other), read(one)]
    np.testing.assert_array_equal(read(tag + one + tag + other + one), np.concatenate(parts))
    silent = untold(one)  # after as many frames as the first part has
    np.testing.assert_array_equal(read(one + silent), np.concatenate([read(one), read(silent)]))
    for rest in (b"TAG" + bytes(125), b"\xff\xfb\x90\x64" * 3):  # no sounds
        np.testing.assert_array_equal(read(one + rest), read(one))


def untold(data):
    """An MP3 without its first frame, which holds nothing but its length."""
    start, size = next(containers._mp3_frames(data))
    assert containers._stated_frames(data, start, size)
    return data[start + size :]


def test_a_variable_bitrate_without_a_stated_length_is_whole():
    noise = np.random.default_rng(0).standard_normal(20 * RATE)
    swelling = np.repeat(np.linspace(0, 0.5, 40), RATE // 2) * (np.tile(TONE, 20) + 0.1 * noise)
    data = encoded(swelling, bitrate_mode="VARIABLE", compression_level=0.5)
    assert len(read(data)) == 20 * RATE
    assert 20 * RATE <= len(read(untold(data))) <= 20 * RATE + 3000  # with what the encoder puts before and after
    with pytest.raises(ValueError, match="is cut off after"):
        read(data[: len(data) // 2])


@pytest.fixture
def aac():
    """A second of a tone as an M4A."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(TONE[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return file.getvalue()


def test_what_libsndfile_does_not_know_is_read_by_ffmpeg(aac):
    found = read(aac, "m4a")
    assert abs(len(found) - RATE) < 2500
    middle = found[4000:12_000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)
    assert np.argmax(np.abs(np.fft.rfft(middle))) == 440 * len(middle) // RATE


def test_a_container_that_tells_its_length_is_not_cut_off(tmp_path):
    import av

    with av.open(str(tmp_path / "a.mka"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for index, block in enumerate(np.split((32_767 * TONE).astype(np.int16), 16)):
            frame = av.AudioFrame.from_ndarray(block[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, index * len(block), Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = (tmp_path / "a.mka").read_bytes()
    assert len(read(data, "mka")) == RATE
    with pytest.raises(ValueError, match=r"^a\.mka is cut off after [\d,]+ samples; fetch it again$"):
        read(data[: len(data) // 2], "mka")


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_a_tag_before_another_kind_of_file_is_left_out(kind):
    data = encoded(TONE, kind)
    np.testing.assert_array_equal(read(b"ID3\x03\0\0\0\0\0\x11" + bytes(17) + data, kind), read(data, kind))


def test_without_pyav_it_is_named(aac, monkeypatch):
    real = builtins.__import__

    def without(name, *args):
        if name == "av":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        ValueError, match=r'^a\.m4a is read with PyAV, which is missing: pip install "unireplknet_jax\[video\]"$'
    ):
        read(aac, "m4a")


@pytest.mark.parametrize("data", [b"dear diary, " * 50, bytes(2000), b"\xff\xfb\x90\x64" * 500])
def test_what_is_no_sound_is_one_sentence(data, aac):
    for suffix in ("m4a", "mp3"):
        with pytest.raises(
            ValueError, match=rf"^a\.{suffix} (cannot be read as sound|holds no samples|is cut off)"
        ) as caught:
            read(data, suffix)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="cannot be read as sound"):
        read(aac[:200], "m4a")


def test_a_folder_may_hold_them(tmp_path):
    (tmp_path / "train" / "bell").mkdir(parents=True)
    for name in ("1.m4a", "2.WMA", "3.wav", "notes.txt"):
        (tmp_path / "train" / "bell" / name).touch()
    assert len(open_sounds("folder", "train", tmp_path)) == 3


def test_a_place_that_a_damaged_header_asks_for_is_not_printed_as_an_error():
    """Errors in libsndfile's callbacks are printed with their stack trace; pytest sees them after the test."""
    data = encoded(TONE[:40], "aiff")
    with pytest.raises(ValueError, match=r"^a\.aiff "):
        read(data[:31] + b"\xff" * 8 + data[39:], "aiff")
