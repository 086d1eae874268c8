"""Clips of videos on the host: which frames, their decoding by PyAV, views for evaluation, augmentation for training.

Source of the rules: the original's Video/dataset (datasets.py, video_transforms.py), whose reader is decord. Clips are
(t, h, w, 3) uint8 RGB in display order.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import errno
import os
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from unireplknet_jax.data.files import EncodedFile, file_name, misplaced, opened
from unireplknet_jax.data.limits import check_pixels, check_seconds
from unireplknet_jax.data.pictures.randaugment import RandAugment
from unireplknet_jax.data.pictures.transforms import random_resized_crop, shorter_side_to

SAMPLINGS = ("dense", "uniform")
GREY = (128, 128, 128)
_MOST_A_SECOND = 1000  # frames of a clip, however short it says it is
_LEAST_DECODED = 0.8  # of the frames of a file that is not taken for damaged
_OF_THE_MACHINE = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO)  # not of the file
_PICTURE_FORMATS = ("image2", "tty")  # with *_pipe what FFmpeg calls pictures, and texts that it would draw


# ---- which frames


def one_clip(count: int, frames: int, stride: int, sampling: str, rng: np.random.Generator | None = None) -> np.ndarray:
    """The indices (frames,) of one clip of a video of `count` frames: anywhere by `rng`, None: of its centre.

    "dense": frames * stride consecutive frames, of which `frames` are taken evenly from the first to the last; a video
    that is not longer gives every stride-th frame, as evenly, and then its last one as often as needed.
    "uniform": one frame of each of `frames` windows of count // frames frames; a shorter video gives its first frame as
    often as needed, and then all of them.
    """
    if sampling == "uniform":
        width = count // frames
        if not width:
            return np.concatenate([np.zeros(frames - count, np.int64), np.arange(count)])
        return width * np.arange(frames) + (width // 2 if rng is None else rng.integers(width, size=frames))
    span = frames * stride
    if count <= span:
        some = np.linspace(0, count, count // stride)
        indices = np.concatenate([some, np.full(frames - len(some), count)])
        return np.clip(indices, 0, count - 1).astype(np.int64)
    end = (span + count) // 2 if rng is None else int(rng.integers(span, count))
    return np.clip(np.linspace(end - span, end, frames), end - span, end - 1).astype(np.int64)


def clips_over_time(count: int, frames: int, stride: int, sampling: str, segments: int) -> np.ndarray:
    """The indices (segments, frames) of clips spread over a whole video of `count` frames; one: that of its centre.

    "dense": of every stride-th frame of the video, the last repeated if they are too few for a clip, `segments` runs of
    `frames`, the first at the beginning and the last at the end. "uniform": each clip spans the video, one begins a
    share of a window later than the other.
    """
    if segments == 1:
        return one_clip(count, frames, stride, sampling)[None]
    if sampling == "uniform":
        window = count / frames
        return (np.arange(segments)[:, None] * window / segments + window * np.arange(frames)).astype(np.int64)
    sampled = np.arange(0, count, stride)
    sampled = np.concatenate([sampled, np.full(max(frames - len(sampled), 0), sampled[-1])])
    starts = (np.arange(segments) * ((len(sampled) - frames) / (segments - 1))).astype(np.int64)
    return sampled[starts[:, None] + np.arange(frames)]


# ---- decoding


def read_frames(
    source: str | os.PathLike | EncodedFile | np.ndarray, choose: Callable[[int], np.ndarray]
) -> np.ndarray:
    """Frames of a video, (k, h, w, 3) uint8: of a file in whatever container and codec FFmpeg knows.

    source: the path of the file, its bytes with a name, or all frames, (t, h, w, 3) uint8.
    choose: (number of frames) -> the indices (k,) that are wanted, in any order, repeated or not. All frames have the
    size of the first one. Decoding ends with the last frame that is wanted.
    Raises ValueError with the file's name where it is no video, has no video stream or frame, is truncated or damaged;
    ImportError without PyAV.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 4 or source.shape[-1] != 3 or not source.size:
            raise ValueError(
                f"an array of {source.dtype} {source.shape} is not a video; expected uint8 (t, h, w, 3) from 0 to 255"
            )
        return source[np.asarray(choose(len(source)))]
    name = file_name(source, "a video file")
    with _container(source, name) as container:
        count = _count_frames(container, name)
    wanted = np.asarray(choose(count))
    with _container(source, name) as container:
        found = _decode(container, name, {*wanted.tolist()}, count)
    return np.stack([found[index] for index in wanted.tolist()])


def each_frame(source: str | os.PathLike | EncodedFile) -> Iterator[tuple[float, np.ndarray]]:
    """Every frame of a video in order, as soon as it is decoded: (seconds since the first one, (h, w, 3) uint8).

    source: the path of the file, or its bytes with a name. All frames have the size of the first one.
    Raises as `read_frames`, of damage that only decoding finds after the frames before it.
    """
    name = file_name(source, "a video file")
    with _container(source, name) as container:
        count = _count_frames(container, name)
    decoded, start, size = 0, 0.0, {}
    with _container(source, name) as container:
        stream = _stream(container, name)
        for frame in container.decode(stream):
            time = float(decoded / stream.guessed_rate) if frame.time is None else frame.time
            start, size = (start, size) if decoded else (time, {"width": frame.width, "height": frame.height})
            decoded += 1
            yield round(time - start, 6), _upright(frame, size)
    _check_decoded(decoded, count, name)


def why_broken(example: dict) -> str | None:
    """The sentence that says why the video example["path"] cannot be decoded; None where it can, to the last frame."""
    try:
        read_frames(example["path"], lambda count: np.array([count - 1]))
    except ValueError as error:
        return str(error)
    return None


def require_pyav():
    try:
        import av
    except ImportError as error:
        raise ImportError("videos are read with PyAV, which is missing: pip install av") from error
    return av


@contextlib.contextmanager
def _container(source, name):
    """A video file, opened by FFmpeg; what fails while it is in use is told in one sentence with its name."""
    av = require_pyav()
    try:
        with opened(source) as file:
            what = misplaced(file.read(512))
            if what:
                raise ValueError(f"{name} is {what}; expected a video file, for example an MP4")
            file.seek(0)
            # An open file and no protocol: a playlist cannot make FFmpeg fetch other files.
            with av.open(file, metadata_errors="ignore", options={"protocol_whitelist": "none"}) as container:
                yield container
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(f"cannot read {name} ({error.strerror}); expected the path of a video file") from error
    except (av.error.FFmpegError, OSError) as error:
        if error.errno in _OF_THE_MACHINE:
            raise OSError(error.errno, f"cannot read {name} now: {error.strerror.lower()}") from error
        # FFmpeg jumps to where a damaged file sends it, which is an invalid argument of the open file's own `seek`.
        if not isinstance(error, av.error.FFmpegError) and error.errno != errno.EINVAL:
            raise
        raise ValueError(
            f"{name} is not a video that FFmpeg can read, or is damaged; replace it with a whole one"
        ) from error


def _stream(container, name):
    import av

    kind = container.format.name
    if kind in _PICTURE_FORMATS or kind.endswith("_pipe"):
        raise ValueError(f"{name} is a picture or a text; expected a video file, for example an MP4")
    # The cover of a piece of music is a stream of one picture.
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        found = sorted({str(stream.type) for stream in container.streams})
        raise ValueError(f"{name} has no video stream (it has {', '.join(found) or 'none at all'}); expected a video")
    check_pixels(streams[0].width, streams[0].height, name, frame=True)
    streams[0].codec_context.thread_count = 1  # clips are decoded side by side
    return streams[0]


def _count_frames(container, name):
    """How many frames there are to decode, told by the packets alone; ValueError if the file states more of them."""
    stream = _stream(container, name)
    count, end = 0, 0.0
    for packet in container.demux(stream):
        if packet.size:
            count += not packet.is_discard
            check_seconds(max(end, count / _MOST_A_SECOND), name)
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    if not count:
        raise ValueError(f"{name} holds no video frames; replace it with a whole file")
    # Some containers state the number of frames, Matroska a duration, which with sound beside is not the picture's.
    # An MP4 that was trimmed states all frames, but the duration of those that its edit list keeps.
    duration = float((stream.duration or 0) * stream.time_base) if "mp4" in container.format.name else float("inf")
    if count < stream.frames and end < duration * (1 - 0.5 / stream.frames):
        raise ValueError(f"{name} is truncated to {count} of its {stream.frames} frames; replace it with a whole one")
    stated = (container.duration or 0) / 1e6
    if len(container.streams) == 1 and 0 < end < 0.95 * stated:
        raise ValueError(f"{name} is truncated to {end:.2f} of its {stated:.2f} s; replace it with a whole one")
    return count


def _decode(container, name, wanted, count):
    """{index: (h, w, 3)} of the wanted frames.

    Decoders pass over some frames, such as those that refer to what was cut off before them; what then is missing at
    the end is the last frame.
    """
    found, size, decoded, last = {}, {}, 0, max(wanted)
    for frame in container.decode(_stream(container, name)):
        size = size or {"width": frame.width, "height": frame.height}
        check_pixels(frame.width, frame.height, name, frame=True)
        if decoded in wanted:
            found[decoded] = _upright(frame, size)
        decoded += 1
        if decoded > last:
            return found
    _check_decoded(decoded, count, name)
    return found | dict.fromkeys(wanted - {*found}, _upright(frame, size))


def _check_decoded(decoded, count, name):
    if decoded < _LEAST_DECODED * count:
        raise ValueError(
            f"{name} is damaged: {decoded} of its {count} frames can be decoded; replace it with a whole one"
        )


def _upright(frame, size):
    """(h, w, 3): telephones store what they filmed lying on its side or mirrored, and the matrix that shows it upright.

    The matrix, of integers with 16 bits of fraction, takes a place (x, y) to (a x + c y, b x + d y) on the screen.
    Turns that are no multiple of 90 degrees are rounded.
    """
    # One thread: "automatic" starts as many as there are processors for every frame, and keeps them with the frame.
    if any(component.is_alpha for component in frame.format.components):
        picture = _on_white(frame.to_ndarray(format="rgba", threads=1, **size))
    else:
        picture = frame.to_ndarray(format="rgb24", threads=1, **size)
    matrix = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return picture
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).tolist()
    across, down = a, d
    if abs(c) > abs(a):  # x on the screen is y in the file
        picture, across, down = picture.swapaxes(0, 1), c, b
    return picture[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def _on_white(picture):
    """(h, w, 4) -> (h, w, 3): what is transparent is white, as in `pictures.decode`."""
    share = picture[..., 3:].astype(np.uint16)
    return ((picture[..., :3] * share + 255 * (255 - share) + 127) // 255).astype(np.uint8)


# ---- views and augmentation


def spatial_crops(clip: np.ndarray, size: int, crops: int) -> np.ndarray:
    """(t, h, w, 3) -> (crops, t, size, size, 3): windows along the longer side, end to end; 1: the centre.

    The shorter side is brought to `size` with Pillow's antialiased bicubic filter (original: OpenCV's bilinear one
    without antialiasing).
    """
    height, width = clip.shape[1:3]
    width, height = shorter_side_to((width, height), size)
    frames = [Image.fromarray(frame) for frame in clip]
    clip = np.stack([np.asarray(frame.resize((width, height), Image.Resampling.BICUBIC)) for frame in frames])
    room = max(width, height) - size
    starts = [int(k * room / (crops - 1)) for k in range(crops)] if crops > 1 else [round(room / 2)]
    if width >= height:
        return np.stack([clip[:, :, start : start + size] for start in starts])
    return np.stack([clip[:, start : start + size] for start in starts])


@dataclasses.dataclass(frozen=True)
class ClipTransform:
    """The clip a model is trained on: RandAugment, crop and flip, in the original's order, alike in all frames.

    size: of the square result. scale: bounds of the area of the random resized crop, None: the centre, as in
    evaluation. flip: mirror left to right with probability 1/2. rand_augment: a policy of `RandAugment`, "": none.
    The crop is resized with Pillow's antialiased bicubic filter (original: bilinear, not antialiased).
    """

    size: int
    scale: tuple[float, float] | None = (0.08, 1.0)
    flip: bool = True
    rand_augment: str = ""

    def __call__(self, clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(t, h, w, 3) uint8 -> (t, size, size, 3); rng is good for this call only."""
        mirrored = self.flip and rng.random() < 0.5
        policy = RandAugment.from_policy(self.rand_augment, GREY) if self.rand_augment else None
        frames = []
        for frame in clip:
            picture, same = Image.fromarray(frame), copy.deepcopy(rng)  # so every frame gets the same draws
            if policy is not None:
                picture = policy(picture, same)
            if self.scale is not None:
                picture = random_resized_crop(picture, self.size, same, self.scale)
            frames.append(np.asarray(picture))
        clip = np.stack(frames)
        if self.scale is None:
            clip = spatial_crops(clip, self.size, 1)[0]
        return clip[:, :, ::-1] if mirrored else clip
