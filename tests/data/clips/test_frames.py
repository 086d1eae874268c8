"""Frames of a clip by hand-computed indices; decoding of real files; views and augmentation."""

import errno
import os
import pickle
import struct
import sys
import wave
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from video_files import KINDS, indices, stairs, write

from unireplknet_jax.data.clips import frames as decoding
from unireplknet_jax.data.clips.frames import (
    ClipTransform,
    clips_over_time,
    one_clip,
    read_frames,
    spatial_crops,
    why_broken,
)
from unireplknet_jax.data.clips.moving_shapes import write_video
from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.data.pictures.randaugment import RandAugment

OFFSETS = [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]  # of 16 frames in 64, by the original's formula


def every(count):
    return np.arange(count)


# Frame indices.


def test_a_dense_clip_takes_its_frames_evenly_out_of_its_span():
    np.testing.assert_array_equal(one_clip(300, 16, 4, "dense") - 118, OFFSETS)  # (64 + 300) // 2 - 64
    starts = set()
    for seed in range(200):
        clip = one_clip(70, 16, 4, "dense", np.random.default_rng(seed))
        np.testing.assert_array_equal(clip - clip[0], OFFSETS)
        starts.add(int(clip[0]))
    assert starts == set(range(6))  # the last one ends before frame 69, as in the original


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (64, [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]),
        (20, [0, 5, 10, 15, *[19] * 12]),  # linspace(0, 20, 5), clipped to 19
        (3, [2] * 16),
        (1, [0] * 16),
    ],
)
def test_a_short_video_ends_in_its_last_frame_repeated(count, expected):
    for rng in (None, np.random.default_rng(0)):
        np.testing.assert_array_equal(one_clip(count, 16, 4, "dense", rng), expected)


def test_uniform_clips_have_a_frame_of_each_window():
    np.testing.assert_array_equal(one_clip(43, 4, 9, "uniform"), [5, 15, 25, 35])
    np.testing.assert_array_equal(one_clip(3, 5, 9, "uniform"), [0, 0, 0, 1, 2])
    drawn = np.array([one_clip(43, 4, 9, "uniform", np.random.default_rng(seed)) for seed in range(100)])
    for window, column in enumerate(drawn.T):
        assert {*column} == {*range(10 * window, 10 * window + 10)}
    assert len({tuple(row % 10) for row in drawn}) > 90  # not one offset for all


def test_the_views_of_a_video_run_from_its_beginning_to_its_end():
    dense = clips_over_time(300, 16, 4, "dense", 5)  # 75 sampled frames, 59 / 4 = 14.75 apart: 0, 14, 29, 44, 59
    np.testing.assert_array_equal(dense[:, 0], [0, 56, 116, 176, 236])
    np.testing.assert_array_equal(dense[4], np.arange(236, 300, 4))
    short = clips_over_time(10, 4, 4, "dense", 2)  # 0, 4, 8 and the last again
    np.testing.assert_array_equal(short, [[0, 4, 8, 8]] * 2)
    uniform = clips_over_time(40, 4, 4, "uniform", 2)
    np.testing.assert_array_equal(uniform, [[0, 10, 20, 30], [5, 15, 25, 35]])
    np.testing.assert_array_equal(clips_over_time(300, 16, 4, "dense", 1), [one_clip(300, 16, 4, "dense")])


# Decoding.


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_that_were_asked_for(kind, tmp_path):
    path = write(tmp_path / kind, 40, KINDS[kind])
    frames = read_frames(path, lambda count: np.array([0, 7, 7, count - 1, 20]))
    assert frames.shape == (5, 48, 64, 3)
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(indices(frames), [0, 7, 7, 39, 20])
    assert why_broken({"path": str(path)}) is None


def test_bytes_and_frames_give_what_the_file_gives(tmp_path):
    path = write(tmp_path / "a.mp4", 20, KINDS["h264.mp4"])
    frames = read_frames(path, every)
    taken = np.array([3, 3, 19])
    for source in (EncodedFile(path.read_bytes(), "b.mp4"), frames):
        np.testing.assert_array_equal(read_frames(source, lambda count: taken * count // 20), frames[taken])
    with pytest.raises(ValueError, match=r"^b\.mp4 is not a video that FFmpeg can read"):
        read_frames(EncodedFile(path.read_bytes()[:500], "b.mp4"), every)
    with pytest.raises(ValueError, match=r"^c\.mp4 is empty"):
        read_frames(EncodedFile(b"", "c.mp4"), every)
    for array in (frames / 255, frames[0], frames[:0], frames[..., :1]):
        with pytest.raises(ValueError, match=r"is not a video; expected uint8 \(t, h, w, 3\)"):
            read_frames(array, every)


def test_colours_are_in_the_order_of_rgb(tmp_path):
    red = np.broadcast_to(np.array([200, 30, 60], np.uint8), (3, 48, 64, 3))
    write_video(tmp_path / "red.mp4", red)
    np.testing.assert_allclose(read_frames(tmp_path / "red.mp4", every).mean(axis=(0, 1, 2)), [200, 30, 60], atol=4)


def test_all_frames_have_the_size_of_the_first(tmp_path):
    import av

    parts = [write(tmp_path / f"{width}.ts", 4, "mpeg2video", width=width) for width in (64, 96)]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    with av.open(str(both)) as container:
        assert {frame.width for frame in container.decode(video=0)} == {64, 96}
    assert read_frames(both, every).shape[1:] == (48, 64, 3)


def patched(path, box, at, form, *values):
    """The MP4 file with numbers written over those `at` bytes behind the name of one of its boxes."""
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, data.index(box) + 4 + at, *values)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("first", "kept", "expected"), [(0, 20, range(20)), (8, 20, range(8, 28)), (8, 32, range(8, 40))]
)
def test_a_video_that_was_trimmed_has_the_frames_that_were_kept(first, kept, expected, tmp_path):
    """Telephones cut videos by an edit list alone; the frames outside of it stay in the file."""
    path = write(tmp_path / "a.mp4", 40, "libx264")
    # An entry of an edit list: the duration in thousandths of a second, the beginning in the track's units, of which a
    # frame has 512, and as B-frames come late the first one is at 1024.
    patched(path, b"elst", 8, ">Ii", 40 * kept, 512 * first + 1024)
    np.testing.assert_array_equal(indices(read_frames(path, every)), expected)


TURNS = [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (1, 0, 0, 1)]
MIRRORS = [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]


@pytest.mark.parametrize("matrix", TURNS + MIRRORS)
def test_a_video_stands_upright_and_is_mirrored_as_players_show_it(matrix, tmp_path):
    """The matrix takes the stored picture, whose upper left corner is bright and right one grey, to the screen's."""
    lying = np.zeros((3, 48, 64, 3), np.uint8)
    lying[:, :16, :16], lying[:, :16, -16:] = 200, 100
    write_video(tmp_path / "a.mp4", lying)
    a, b, c, d = (0x10000 * value for value in matrix)
    path = patched(tmp_path / "a.mp4", b"tkhd", 40, ">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    frames = read_frames(path, every)
    assert frames.shape == ((3, 64, 48, 3) if a == 0 else (3, 48, 64, 3))
    expected = np.zeros((2, 2))
    for (x, y), value in (((-1, -1), 200), ((1, -1), 100)):
        across, down = matrix[0] * x + matrix[2] * y, matrix[1] * x + matrix[3] * y
        expected[int(down > 0), int(across > 0)] = value
    np.testing.assert_allclose(frames[1][:: len(frames[1]) - 1, :: len(frames[1][0]) - 1, 0], expected, atol=30)


def sound(path):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))


def wrong_files(folder):
    """{name: what the error says of it}."""
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("hello " * 100)
    (folder / "text.txt").write_text("hello " * 100)
    (folder / "folder.mp4").mkdir()
    Image.new("RGB", (32, 32), "red").save(folder / "picture.png")
    sound(folder / "sound.wav")
    whole = write(folder / "whole.ts", 10, "mpeg2video")
    (folder / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\nfile://{whole}\n#EXT-X-ENDLIST\n"
    )
    for name, codec, share in (("late.mp4", "mpeg4", 0.9), ("a.avi", "mpeg4", 0.9), ("a.mkv", "libx264", 0.8)):
        data = write(folder / name, 40, codec).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])
    data = bytearray(write(folder / "noise.mp4", 40).read_bytes())
    data[200:1200] = np.random.default_rng(0).bytes(1000)
    (folder / "noise.mp4").write_bytes(data)
    return {
        "none.mp4": "cannot read .*No such file",
        "folder.mp4": "cannot read .*directory",
        "empty.mp4": "is empty",
        "text.mp4": "is not a video that FFmpeg can read, or is damaged",
        "text.txt": "is a picture or a text; expected a video",
        "picture.png": "is a picture or a text; expected a video",
        "sound.wav": r"has no video stream \(it has audio\)",
        "list.m3u8": "is not a video that FFmpeg can read",  # a playlist must not reach other files
        "late.mp4": "is not a video that FFmpeg can read, or is damaged",
        "a.avi": "is truncated to .* of its 40 frames",
        "a.mkv": "is truncated to .* of its 1.60 s",
        "noise.mp4": "is not a video that FFmpeg can read, or is damaged",
    }


def test_some_frames_of_a_file_may_be_lost_and_not_many(monkeypatch):
    def decode(decoded):
        grey = [np.full((4, 6, 3), index, np.uint8) for index in range(decoded)]
        made = [
            SimpleNamespace(
                width=6, height=4, side_data=[], format=SimpleNamespace(components=()), to_ndarray=lambda v=v, **_: v
            )
            for v in grey
        ]
        return decoding._decode(SimpleNamespace(decode=lambda _: iter(made)), "a.mp4", {3, 39}, 40)

    monkeypatch.setattr(decoding, "_stream", lambda container, name: None)
    found = decode(32)
    assert {index: int(pixels[0, 0, 0]) for index, pixels in found.items()} == {3: 3, 39: 31}  # the last one there is
    with pytest.raises(ValueError, match=r"a\.mp4 is damaged: 31 of its 40 frames can be decoded"):
        decode(31)


def test_a_wrong_file_is_one_sentence_with_its_name(tmp_path):
    for name, message in wrong_files(tmp_path).items():
        path = str(tmp_path / name)
        with pytest.raises(ValueError, match=message) as caught:
            read_frames(path, every)
        assert path in str(caught.value)
        assert "\n" not in str(caught.value)
        assert why_broken({"path": path}) == str(caught.value)


def test_the_cover_of_a_piece_of_music_is_no_video(tmp_path):
    import av

    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(cover.encode(None))
    with pytest.raises(ValueError, match="has no video stream"):
        read_frames(tmp_path / "song.mp4", every)


def test_without_pyav_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install av$"):
        read_frames(tmp_path / "a.mp4", every)


# Views and augmentation.


def test_crops_lie_along_the_longer_side():
    columns = np.broadcast_to(np.arange(80, dtype=np.uint8)[:, None], (2, 40, 80, 1)).repeat(3, axis=3)
    for clip, at in ((columns, np.s_[:, 0, 0, 0, 0]), (columns.swapaxes(1, 2), np.s_[:, 0, 0, 0, 0])):
        crops = spatial_crops(clip, 40, 3)
        assert crops.shape == (3, 2, 40, 40, 3)
        np.testing.assert_array_equal(crops[at], [0, 20, 40])
        np.testing.assert_array_equal(spatial_crops(clip, 40, 1), crops[1:2])
    assert spatial_crops(columns, 20, 4).shape == (4, 2, 20, 20, 3)
    odd = columns[:, :, :43]
    assert [int(spatial_crops(odd[:, :, :width], 40, 1)[0, 0, 0, 0, 0]) for width in (41, 43)] == [0, 2]  # 0.5, 1.5


def test_all_frames_of_a_clip_are_augmented_alike():
    frame = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    clip = np.stack([frame] * 5)
    transform = pickle.loads(pickle.dumps(ClipTransform(24, (0.2, 1.0), True, "rand-m7-n4-mstd0.5-inc1")))
    seen = set()
    for seed in range(8):
        out = transform(clip, np.random.default_rng(seed))
        assert out.shape == (5, 24, 24, 3)
        for other in out[1:]:
            np.testing.assert_array_equal(other, out[0])
        np.testing.assert_array_equal(transform(clip, np.random.default_rng(seed)), out)
        seen.add(out.tobytes())
    assert len(seen) == 8


def test_randaugment_comes_before_the_crop_on_whole_frames(monkeypatch):
    sizes = []
    monkeypatch.setattr(
        RandAugment, "__call__", lambda self, picture, rng: sizes.append((picture.size, self.fill)) or picture
    )
    ClipTransform(24, (0.2, 1.0), False, "rand-m7-n4-mstd0.5-inc1")(stairs(3, 40, 60), np.random.default_rng(0))
    assert sizes == [((60, 40), (128, 128, 128))] * 3


def test_half_of_the_clips_are_mirrored_and_without_a_crop_the_centre_stays():
    ramp = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None], (2, 40, 60, 3))
    centre = spatial_crops(ramp, 40, 1)[0]
    mirrored = 0
    for seed in range(60):
        out = ClipTransform(40, None, True)(ramp, np.random.default_rng(seed))
        mirrored += np.array_equal(out, centre[:, :, ::-1])
        assert np.array_equal(out, centre[:, :, ::-1]) or np.array_equal(out, centre)
    assert 15 < mirrored < 45  # 4 deviations around 30


# The machine's limits.


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted as Linux lists them")
def test_pictures_are_converted_without_threads_of_their_own(tmp_path, monkeypatch):
    kept, upright = [], decoding._upright
    monkeypatch.setattr(decoding, "_upright", lambda frame, size: kept.append(frame) or upright(frame, size))
    write(tmp_path / "a.mp4", 12)
    before = len(os.listdir("/proc/self/task"))
    assert len(read_frames(tmp_path / "a.mp4", every)) == len(kept) == 12
    assert len(os.listdir("/proc/self/task")) <= before + 1


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_what_the_machine_lacks_is_no_damage_of_the_file(tmp_path, monkeypatch, number):
    def out_of(*_):
        raise OSError(number, "Out of something")

    write(tmp_path / "a.mp4", 2)
    monkeypatch.setattr(decoding, "_decode", out_of)
    with pytest.raises(OSError, match=r"cannot read .*a\.mp4 now: out of something"):
        why_broken({"path": tmp_path / "a.mp4"})


def test_what_is_transparent_is_white(tmp_path):
    av = pytest.importorskip("av")
    pixels = np.zeros((16, 32, 4), np.uint8)
    pixels[:, :16], pixels[:, 16:24] = (255, 0, 0, 255), (255, 0, 0, 51)
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("qtrle", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "argb"
        frame = av.VideoFrame.from_ndarray(pixels, "rgba").reformat(format="argb")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    found = read_frames(tmp_path / "a.mov", every)[0, 0]
    assert found[[0, 16, 24]].tolist() == [[255, 0, 0], [255, 204, 204], [255, 255, 255]]
