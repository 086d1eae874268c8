"""Sounds by numbers: the filter bank is torchaudio's, reading gives what was written, augmentation keeps its bounds."""

import struct
import sys

import jax
import numpy as np
import pytest
import soundfile

from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.data.sounds import waveforms as audio
from unireplknet_jax.data.sounds.waveforms import FilterBank, centred, read_sound
from unireplknet_jax.ops.filterbank import log_filterbank

SOUNDS = ("noise", "tone", "chirp", "short", "speech", "long")
EMPTY = 3  # the filter of 128 that lies between two bins
FLOOR = -15.942385


@pytest.fixture(scope="module")
def reference(goldens):
    return np.load(goldens / "audio" / "audio_fbank.npz")


@pytest.fixture(scope="module")
def waveform(goldens):
    return lambda name: centred(read_sound(goldens / "audio" / f"audio_{name}.wav", 16_000))


# The filter bank.


def test_window_and_filters_are_kaldis(reference):
    bank = FilterBank()
    np.testing.assert_allclose(bank.taper, reference["window_hann400_f64"], rtol=0, atol=1e-15)
    np.testing.assert_allclose(bank.weights, reference["melbank_f64"], rtol=0, atol=1e-13)
    assert np.flatnonzero(bank.weights.sum(axis=1) == 0).tolist() == [EMPTY]


@pytest.mark.parametrize("name", SOUNDS)
def test_features_are_torchaudios(reference, waveform, name):
    features = FilterBank()(waveform(name))
    # Given float64, torchaudio makes its filters in float32 still; given those in float64, too, there is only rounding.
    np.testing.assert_allclose(features, reference[f"{name}/fbank_f64"], rtol=0, atol=2e-4)
    if f"{name}/fbank_f64_exactmel" in reference:
        np.testing.assert_allclose(features, reference[f"{name}/fbank_f64_exactmel"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(features[:, EMPTY], FLOOR, rtol=0, atol=1e-6)


@pytest.mark.parametrize("samples", [400, 559, 560])
def test_frames_are_counted_as_in_kaldi(reference, samples):
    bank, wave = FilterBank(), reference[f"edge{samples}/waveform"]
    expected = reference[f"edge{samples}/fbank_f64"]
    assert bank.frames(samples) == len(expected)
    np.testing.assert_allclose(bank(wave), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", SOUNDS)
def test_the_jitted_filter_bank_is_the_same_function_in_float32(waveform, name):
    bank, wave = FilterBank(), waveform(name)
    found = np.asarray(jax.jit(lambda x: log_filterbank(x, bank.taper, bank.weights, bank.shift_samples))(wave))
    assert found.dtype == np.float32
    difference = np.abs(found - bank(wave))
    # Beside a loud tone float32 rounds energies that are 1e-10 of it; torchaudio's own float32 is 1.1e-2 off.
    assert difference.max() < 1e-2
    assert difference.mean() < 1e-4
    np.testing.assert_allclose(found[:, EMPTY], FLOOR, rtol=0, atol=1e-6)


def test_the_jitted_filter_bank_takes_batches_and_refuses_what_has_no_frame():
    bank, waves = FilterBank(mels=40, window="hamming"), np.random.default_rng(0).standard_normal((2, 3, 1000))
    found = log_filterbank(waves, bank.taper, bank.weights, bank.shift_samples)
    assert found.shape == (2, 3, 4, 40)
    np.testing.assert_allclose(found[1, 2], bank(waves[1, 2]), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="a signal of 399 samples has no frame of 400; pad it"):
        log_filterbank(waves[..., :399], bank.taper, bank.weights, bank.shift_samples)


def slowly(wave, rate, mels, width, shift, window):
    """The definition, a sum at a time: Kaldi's order of steps, the Fourier transform written out."""
    size, step = int(rate * width / 1000), int(rate * shift / 1000)
    points = 1
    while points < size:
        points *= 2
    k = np.arange(size)
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * k / (size - 1))
    taper = {"hanning": taper, "povey": taper**0.85, "hamming": 0.54 - 0.46 * np.cos(2 * np.pi * k / (size - 1))}[
        window
    ]
    low, high = (1127 * np.log(1 + hertz / 700) for hertz in (20, rate / 2))
    rows = []
    for start in range(0, len(wave) - size + 1, step):
        x = wave[start : start + size] - np.mean(wave[start : start + size])
        y = [(x[i] - 0.97 * x[max(i - 1, 0)]) * taper[i] for i in range(size)]
        power = [abs(np.sum(y * np.exp(-2j * np.pi * j * k / points))) ** 2 for j in range(points // 2)]
        row = []
        for b in range(mels):
            left, step_mel = low + b * (high - low) / (mels + 1), (high - low) / (mels + 1)
            energy = 0.0
            for j in range(points // 2):
                mel = 1127 * np.log(1 + j * rate / points / 700)
                energy += max(0, min(mel - left, left + 2 * step_mel - mel) / step_mel) * power[j]
            row.append(np.log(max(energy, 1.1920929e-7)))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize(
    ("rate", "mels", "width", "shift", "window"),
    [(8000, 23, 25, 10, "povey"), (11_025, 40, 20, 7.5, "hamming"), (16_000, 64, 32, 16, "hanning")],
)
def test_other_rates_sizes_and_windows_follow_the_definition(rate, mels, width, shift, window):
    wave = np.random.default_rng(1).standard_normal(rate // 20) * 0.1
    bank = FilterBank(rate, mels, width, shift, window=window)
    expected = slowly(wave, rate, mels, width, shift, window)
    assert len(expected) > 1
    np.testing.assert_allclose(bank(wave), expected, rtol=0, atol=1e-9)


def test_a_sound_shorter_than_a_frame_is_one_frame_and_silence_is_the_floor():
    bank, wave = FilterBank(), np.random.default_rng(0).standard_normal(150)
    np.testing.assert_array_equal(bank(wave), bank(np.pad(wave, (0, 250))))
    np.testing.assert_allclose(bank(np.zeros(700)), np.full((2, 128), FLOOR), atol=1e-6)
    assert bank.samples(bank.frames(150)) == 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": "boxcar"}, "window is 'boxcar'; expected one of hanning, hamming, povey"),
        ({"mels": 0}, "mels=0, width=25.0, shift=10.0 ms at 16000 Hz make no filter bank"),
        ({"shift": 0.01}, "shift=0.01 ms at 16000 Hz make no filter bank"),
        ({"high": 9000}, "filters from 20 to 9000 Hz do not fit 16000 samples a second"),
        ({"rate": 30}, "make no filter bank|do not fit 30"),
    ],
)
def test_a_filter_bank_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FilterBank(**options)


# Reading.


@pytest.mark.parametrize(("suffix", "tolerance"), [("wav", 5e-4), ("flac", 5e-4), ("ogg", 0.05), ("mp3", 0.05)])
def test_formats_rates_and_channels(tmp_path, suffix, tolerance):
    """440 Hz on the left and 880 Hz on the right at 44,100 Hz are their mean at 16,000 Hz."""
    time = np.arange(44_100) / 44_100
    left, right = (0.4 * np.sin(2 * np.pi * hertz * time) for hertz in (440, 880))
    path = tmp_path / f"two.{suffix}"
    soundfile.write(path, np.stack([left, right], axis=1), 44_100)
    found = read_sound(path, 16_000)
    time = np.arange(16_000) / 16_000
    expected = 0.2 * (np.sin(2 * np.pi * 440 * time) + np.sin(2 * np.pi * 880 * time))
    assert found.dtype == np.float64
    assert abs(len(found) - 16_000) < 600  # MP3 pads to whole frames
    middle = slice(2000, 14_000)
    # The polyphase filter's ripple is 1e-3 of the amplitude; Ogg and MP3 are lossy.
    np.testing.assert_allclose(found[middle], expected[middle], rtol=0, atol=tolerance)


def test_sixteen_bits_are_divided_by_32768(tmp_path):
    path, values = tmp_path / "a.wav", np.array([-32768, -1, 0, 1, 32767], np.int16)
    soundfile.write(path, values, 16_000, subtype="PCM_16")
    np.testing.assert_array_equal(read_sound(path, 16_000), values / 32768)
    np.testing.assert_array_equal(read_sound(EncodedFile(path.read_bytes(), "a"), 16_000), values / 32768)


def test_channels_that_cancel_are_not_silence(tmp_path, caplog):
    sound, path = 0.5 * np.sin(np.arange(8000) / 6), tmp_path / "a.wav"
    hum = 0.1 * np.cos(np.arange(8000) / 90)

    def read(*channels, **options):
        soundfile.write(path, np.stack(channels, axis=1), 16_000, subtype="DOUBLE")
        return read_sound(path, 16_000, **options)

    np.testing.assert_allclose(read(hum, sound), (hum + sound) / 2)
    np.testing.assert_allclose(read(sound, *[0 * sound] * 7), sound / 8)
    assert not caplog.records
    np.testing.assert_array_equal(read(0.9 * sound, -0.99 * sound), -0.99 * sound)
    assert [record.message for record in caplog.records] == [
        f"{path}: its channels cancel each other, so the loudest of them is taken"
    ]
    np.testing.assert_array_equal(read(hum, -sound, channels="loudest"), -sound)
    np.testing.assert_array_equal(read(hum, -hum, channels="first"), hum)
    assert not np.any(read(0 * sound, 0 * sound))


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_floats_of_another_scale_are_refused(tmp_path, subtype):
    soundfile.write(tmp_path / "a.wav", [0.0, 12_000.0], 16_000, subtype=subtype)
    with pytest.raises(
        ValueError, match=r"a\.wav holds samples up to 12000; .* divide them, by 32,768 if they were 16"
    ):
        read_sound(tmp_path / "a.wav", 16_000)
    soundfile.write(tmp_path / "a.wav", [0.0, 1.5], 16_000, subtype=subtype)  # beyond what clips, as mixes have it
    assert read_sound(tmp_path / "a.wav", 16_000)[1] == 1.5
    soundfile.write(tmp_path / "b.wav", [0.0, 12_000.0], 16_000, subtype=subtype)
    assert read_sound(tmp_path / "b.wav", 16_000, scale=32_768)[1] == 12_000 / 32_768
    assert audio.why_broken({"sound": (tmp_path / "b.wav").read_bytes(), "path": "b.wav"}, 32_768) is None


def test_whole_numbers_have_their_own_scale(tmp_path):
    soundfile.write(tmp_path / "a.wav", [0.0, 0.5], 16_000, subtype="PCM_16")
    assert read_sound(tmp_path / "a.wav", 16_000, scale=32_768)[1] == 0.5


@pytest.mark.parametrize("subtype", ["GSM610", "G721_32", "NMS_ADPCM_16", "IMA_ADPCM", "MS_ADPCM", "ULAW", "PCM_24"])
def test_telephones_codecs(tmp_path, subtype):
    """Some of which libsndfile cannot seek in."""
    tone = 0.5 * np.sin(np.arange(8000) / 9)
    soundfile.write(tmp_path / "a.wav", tone, 8000, subtype=subtype)
    found = read_sound(tmp_path / "a.wav", 8000)
    assert 8000 <= len(found) < 8600
    assert np.corrcoef(found[:8000], tone)[0, 1] > 0.98


@pytest.mark.parametrize("whole", [0, 36])
def test_a_recording_that_was_interrupted_is_read_to_its_end(tmp_path, whole, caplog):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.linspace(-0.5, 0.5, 999), 16_000, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 4, whole)
    struct.pack_into("<I", data, 40, 0)
    assert len(read_sound(EncodedFile(bytes(data), "a.wav"), 16_000)) == 999
    assert caplog.messages == ["a.wav states no length, as a recording that was interrupted: all of it is read"]
    empty = bytes(data[:44])
    for rest in (b"", b"LIST" + struct.pack("<I", 4) + b"abcd"):
        with pytest.raises(ValueError, match=r"^a\.wav holds no samples"):
            read_sound(EncodedFile(empty + rest, "a.wav"), 16_000)


def test_silence_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "_MOST_BYTES", 1 << 20)
    soundfile.write(tmp_path / "a.flac", np.zeros(1_000_000), 16_000)
    with pytest.raises(ValueError, match=r"a\.flac holds far more sound than a file of [\d,]+ bytes should; cut"):
        read_sound(tmp_path / "a.flac", 16_000)
    soundfile.write(tmp_path / "a.flac", np.zeros(120_000), 16_000)
    assert len(read_sound(tmp_path / "a.flac", 16_000)) == 120_000


def test_an_array_is_a_waveform_of_the_rate_that_is_wanted():
    samples = np.linspace(-1, 1, 9, dtype=np.float32)
    found = read_sound(samples, 16_000)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, samples)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 9)), r"an array of float64 \(2, 9\) is not a waveform"),
        (np.zeros(9, np.int16), r"an array of int16 \(9,\) is not a waveform"),
        (np.zeros(0), r"an array of float64 \(0,\) is not a waveform"),
        (np.array([0, 32767.0]), r"the waveform of 2 samples reaches 32767"),
        (np.array([0, np.nan]), r"the waveform of 2 samples reaches nan"),
    ],
)
def test_an_array_that_is_no_waveform_is_one_sentence(array, message):
    with pytest.raises(ValueError, match=rf"^{message}; expected floats .* from -1 to 1, 16,000 of them a second$"):
        read_sound(array, 16_000)


@pytest.mark.parametrize("stated", [0, 2**31 - 1, 2**32 - 1, "of the file", "one more"])
def test_a_wrong_length_of_the_whole_file_does_not_matter_where_all_samples_are_there(tmp_path, stated):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.linspace(-0.5, 0.5, 999), 16_000, subtype="PCM_U8")
    data = bytearray(path.read_bytes())
    data[36:36] = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # before the samples, of an odd length and so padded
    struct.pack_into("<I", data, 4, {"of the file": len(data), "one more": len(data) - 7}.get(stated, stated))
    path.write_bytes(data)
    assert len(read_sound(path, 16_000)) == 999
    path.write_bytes(data[:-100])
    with pytest.raises(ValueError, match=r"is cut off after 9.. samples"):
        read_sound(path, 16_000)


@pytest.fixture
def spoilt(tmp_path):
    """{what is wrong: file}."""
    files = {name: tmp_path / f"{name}.wav" for name in ("empty", "text", "nothing", "nan", "missing")}
    files["empty"].write_bytes(b"")
    files["text"].write_bytes(b"dear diary, " * 50)
    soundfile.write(files["nothing"], np.zeros(0), 16_000)
    soundfile.write(files["nan"], np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    files["rate"] = tmp_path / "rate.wav"
    soundfile.write(files["rate"], np.zeros(10), 2_000_000_000)
    for suffix in ("wav", "flac", "mp3", "aiff"):
        path = files[f"cut {suffix}"] = tmp_path / f"cut.{suffix}"
        soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, 20_000), 16_000)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    files["folder"] = tmp_path
    return files


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "is empty; expected a WAV, FLAC, Ogg or MP3 file"),
        ("text", r"cannot be read as sound, or is damaged; expected a WAV"),
        ("nothing", "holds no samples; expected a sound of some length"),
        ("nan", "holds samples that are not finite"),
        ("cut wav", "is cut off after 9,9.. samples; fetch it again"),
        ("cut flac", "cannot be read as sound"),
        ("cut mp3", "is cut off after"),
        ("cut aiff", "is cut off after 9,9.. samples; fetch it again"),
        ("rate", "states 2,000,000,000 samples a second; expected 100 to 1,000,000"),
        ("missing", "cannot read .*No such file"),
        ("folder", "cannot read .*Is a directory"),
    ],
)
def test_a_spoilt_file_is_one_sentence_with_its_name(spoilt, kind, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_sound(spoilt[kind], 16_000)
    assert str(spoilt[kind]) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_soundfile_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(ImportError, match=r'pip install "unireplknet_jax\[audio\]"'):
        read_sound(tmp_path / "a.wav", 16_000)


# Augmentation.


def test_a_mixture_is_as_long_as_the_first_and_has_no_mean():
    first, second = np.array([1.0, 2.0, 3.0, 6.0]), np.array([5.0, 1.0])
    expected = 0.25 * np.array([-2.0, -1.0, 0.0, 3.0]) + 0.75 * np.array([2.0, -2.0, 0.0, 0.0])
    np.testing.assert_allclose(audio.mix(first, second, 0.25), expected, atol=1e-15)
    assert len(audio.mix(second, first, 0.5)) == 2
    assert abs(audio.mix(second, first, 0.5).sum()) < 1e-15


def test_missing_frames_are_filled_and_others_cut_off():
    features = np.ones((3, 2))
    np.testing.assert_array_equal(audio.fit_frames(features, 5, -1.5), [[1, 1]] * 3 + [[-1.5] * 2] * 2)
    np.testing.assert_array_equal(audio.fit_frames(features, 2), [[1, 1]] * 2)


def test_one_band_of_each_axis_is_masked():
    """Widths 0..mask - 1, uniformly; every place can be hit; nothing else changes."""
    features, rng = np.ones((20, 30)), np.random.default_rng(0)
    widths, hit = ([], []), np.zeros((20, 30))
    for _ in range(600):
        masked = audio.mask_bands(features, rng, 5, 8, fill=7.0)
        lines = (masked == 7).all(axis=0), (masked == 7).all(axis=1)  # frequencies, frames
        np.testing.assert_array_equal(masked == 7, lines[0][None, :] | lines[1][:, None])
        for found, line in zip(widths, lines, strict=True):
            found.append(line.sum())
            assert np.count_nonzero(np.diff(np.flatnonzero(line)) > 1) == 0
        hit += masked == 7
    assert (features == 1).all()
    for found, mask in zip(widths, (5, 8), strict=True):
        counts = np.bincount(found, minlength=mask)
        assert len(counts) == mask
        assert counts.min() > 600 / mask * 0.6  # four deviations
    assert hit[:-1, :-1].min() > 0
    assert hit[-1, -1] == 0  # both ends are rounded down, as in torchaudio
    np.testing.assert_array_equal(audio.mask_bands(features, rng, 0, 0), features)


def test_noise_is_one_sided_and_frames_turn():
    rng, features = np.random.default_rng(0), np.arange(16.0).reshape(8, 2)
    noisy = np.stack([audio.add_noise(features, rng, 0.1) - features for _ in range(200)])
    assert noisy.min() >= 0
    assert 0.09 < noisy.max() < 0.1
    assert 0.02 < noisy.mean() < 0.03  # 0.1 / 2 / 2
    turns = {int(audio.roll_frames(features, rng, 3)[0, 0] // 2) for _ in range(200)}
    assert turns == {3, 2, 1, 0, 7, 6}  # by -3 .. 2
    assert audio.roll_frames(features, rng, 0) is features


def test_windows_cover_a_long_sound_by_halves():
    sound = np.arange(25)
    assert [(int(part[0]), len(part)) for part in audio.windows(sound, 10)] == [(0, 10), (5, 10), (10, 10), (15, 10)]
    assert [int(part[0]) for part in audio.windows(np.arange(27), 10)] == [0, 5, 10, 15, 17]
    assert [len(part) for part in audio.windows(sound, 25)] == [25]
    assert [len(part) for part in audio.windows(sound, 99)] == [25]
