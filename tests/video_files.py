"""Small video files of many kinds."""

import numpy as np

from unireplknet_jax.data.clips.moving_shapes import write_video

KINDS = {  # name: codec; those that every build of PyAV's wheels can write
    "h264.mp4": "libx264",
    "h264.mkv": "libx264",
    "h264.ts": "libx264",
    "mpeg4.avi": "mpeg4",
    "vp9.webm": "libvpx-vp9",
    "mpeg2.mpg": "mpeg2video",
    "ffv1.mkv": "ffv1",
}


def stairs(count, height=48, width=64):
    """(count, h, w, 3): frame i is grey of the value 4 * i + 20 all over, so that a frame tells its index."""
    values = np.arange(20, 20 + 4 * count, 4, dtype=np.uint8)
    return np.broadcast_to(values[:, None, None, None], (count, height, width, 3))


def write(path, count=40, codec="mpeg4", height=48, width=64, **options):
    write_video(path, stairs(count, height, width), codec, **options)
    return path


def indices(frames):
    """The indices of decoded `stairs`."""
    return np.rint((frames.mean(axis=(1, 2, 3)) - 20) / 4).astype(int)
