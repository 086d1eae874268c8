"""Videos frame by frame: read as soon as they are decoded, written without being held."""

import numpy as np
import pytest
from PIL import Image
from video_files import indices, stairs, write

from unireplknet_jax.data.clips import frames as decoding
from unireplknet_jax.data.clips.frames import each_frame
from unireplknet_jax.data.clips.writing import frame_file
from unireplknet_jax.data.files import EncodedFile


@pytest.mark.parametrize(("kind", "codec"), [("a.ts", "libx264"), ("a.avi", "mpeg4"), ("a.h264", "libx264")])
def test_every_frame_comes_with_its_time_since_the_first(kind, codec, tmp_path):
    """A transport stream begins at 1.4 s, and a bare stream has no times."""
    path = write(tmp_path / kind, 12, codec)
    for source in (path, EncodedFile(path.read_bytes(), kind)):
        times, frames = zip(*each_frame(source), strict=True)
        assert times == pytest.approx([0.04 * number for number in range(12)])
        np.testing.assert_array_equal(indices(np.stack(frames)), range(12))


def test_what_is_cut_off_is_said_before_a_frame_is_given(tmp_path):
    data = write(tmp_path / "a.avi", 40, "mpeg4").read_bytes()
    with pytest.raises(ValueError, match=r"^b\.avi is truncated to .* of its 40 frames"):
        next(each_frame(EncodedFile(data[: int(0.9 * len(data))], "b.avi")))


def test_of_what_decoding_loses_most_is_too_much(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", 12)
    monkeypatch.setattr(decoding, "_count_frames", lambda *_: 40)
    with pytest.raises(ValueError, match=r"a\.mp4 is damaged: 12 of its 40 frames can be decoded"):
        list(each_frame(path))
    monkeypatch.setattr(decoding, "_count_frames", lambda *_: 14)
    assert len([*each_frame(path)]) == 12


def test_a_written_video_keeps_times_and_frames_and_has_even_sides(tmp_path):
    times = [0, 0.5, 0.5, 2.25]  # the third one a thousandth later
    with frame_file(tmp_path / "a.mp4") as append:
        for number, (time, frame) in enumerate(zip(times, stairs(4, 33, 51), strict=True)):
            larger = np.pad(frame, ((0, 8 * number), (0, 0), (0, 0)))  # is cut to the size of the first
            append(Image.fromarray(larger), time)
    found, frames = zip(*each_frame(tmp_path / "a.mp4"), strict=True)
    assert found == pytest.approx([0, 0.5, 0.501, 2.25])
    assert frames[0].shape == (32, 50, 3)
    np.testing.assert_array_equal(indices(np.stack(frames)), range(4))


def test_without_frames_or_with_an_error_there_is_no_file(tmp_path):
    with frame_file(tmp_path / "a.mp4"):
        pass

    def interrupted():
        with frame_file(tmp_path / "a.mp4") as append:
            append(Image.new("RGB", (32, 32)), 0.0)
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert [*tmp_path.iterdir()] == []
