"""Limits: what a small file may claim to hold is refused before it is decoded, where limits hold, and only there."""

import io
import threading

import numpy as np
import pytest
from PIL import Image

from unireplknet_jax.data.clips.frames import read_frames
from unireplknet_jax.data.clips.moving_shapes import write_video
from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.data.limits import Limits, TooLargeError, check_pixels, limited
from unireplknet_jax.data.pictures.decode import read_image
from unireplknet_jax.data.sounds.waveforms import read_sound


def picture(width, height):
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, format="PNG")
    return EncodedFile(file.getvalue(), "a.png")


def sound(seconds, rate=1000, channels=1, name="a.wav"):
    soundfile = pytest.importorskip("soundfile")
    file = io.BytesIO()
    soundfile.write(file, np.zeros((int(seconds * rate), channels)), rate, format=name[2:].upper())
    return EncodedFile(file.getvalue(), name)


def test_a_picture_of_more_pixels_is_refused_by_its_header():
    with limited(Limits(pixels=100)):
        assert read_image(picture(10, 10)).size == (10, 10)
        with pytest.raises(TooLargeError, match=r"^a.png has 101 x 1 pixels; expected 100 at most, so make it smaller"):
            read_image(picture(101, 1))
        with pytest.raises(TooLargeError, match=r"^a.png has 101 x 1 pixels"):  # whose pixels are not there
            read_image(EncodedFile(picture(101, 1)[:60], "a.png"))
    assert read_image(picture(101, 1)).size == (101, 1)


def test_a_strip_is_refused_for_its_length():
    with limited(Limits(pixels=1e6)), pytest.raises(TooLargeError, match="at most with sides up to 65,535, so make"):
        check_pixels(65_536, 1, "a.png")
    check_pixels(65_536, 1, "a.png")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_a_longer_sound_is_refused(name):
    with limited(Limits(seconds=2)):
        assert len(read_sound(sound(2, 8000, name=name), 1000)) == 2000
        with pytest.raises(TooLargeError, match=rf"^{name} is [2-9].\d s long; expected 2 s at most, so cut it"):
            read_sound(sound(2.5, 8000, name=name), 1000)
    assert len(read_sound(sound(2.5, 8000, name=name), 1000)) == 2500


def test_sounds_one_after_the_other_in_one_file_count_together():
    twice = EncodedFile(bytes(sound(1.5)) * 2, "a.wav")
    assert len(read_sound(twice, 1000)) == 3000
    with limited(Limits(seconds=2)), pytest.raises(TooLargeError, match=r"^a.wav is 3.0 s long"):
        read_sound(twice, 1000)


def test_many_channels_count_as_a_longer_sound():
    many = sound(1, 96_000, channels=4)
    assert len(read_sound(many, 96_000)) == 96_000
    with limited(Limits(seconds=2)), pytest.raises(TooLargeError, match=r"^a.wav is 4.0 s long"):
        read_sound(many, 96_000)


def test_a_clip_is_refused_for_its_frames_and_for_its_length(tmp_path):
    pytest.importorskip("av")
    write_video(tmp_path / "a.avi", np.zeros((20, 60, 80, 3), np.uint8))
    everything = np.arange
    file = EncodedFile((tmp_path / "a.avi").read_bytes(), "a.avi")
    with limited(Limits(pixels=6 * 60 * 80, seconds=10)):
        assert len(read_frames(file, everything)) == 20
    with limited(Limits(pixels=6 * 60 * 80 - 6)), pytest.raises(TooLargeError, match=r"^a.avi has 80 x 60 pixels; exp"):
        read_frames(file, lambda count: pytest.fail("frames are decoded"))
    with limited(Limits(seconds=0.1)), pytest.raises(TooLargeError, match=r"^a.avi is 0.\d s long"):
        read_frames(file, everything)


def test_limits_hold_in_their_own_thread_alone():
    found = []

    def elsewhere():
        found.append(read_image(picture(11, 10)).size)

    with limited(Limits(pixels=100)):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert found == [(11, 10)]
