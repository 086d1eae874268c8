"""No file that a stranger sends makes a reader open another one: what refers to others is refused, or read alone."""

import functools
import io
import sys
from pathlib import Path

import numpy as np
import pytest

from unireplknet_jax.data.clips.frames import read_frames
from unireplknet_jax.data.clips.moving_shapes import write_video
from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.data.pictures.decode import read_image
from unireplknet_jax.data.shapes.points import read_points
from unireplknet_jax.data.sounds.waveforms import read_sound

CUBE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 4\n"
opened, watching = [], []


def _watch(event, arguments):
    if watching and event == "open" and isinstance(arguments[0], str | bytes):
        opened.append(Path(arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]).name)


@functools.cache
def _hook():
    sys.addaudithook(_watch)  # which stays for good


@pytest.fixture
def files_opened():
    """The names of the files that Python opened meanwhile."""
    _hook()
    opened.clear()
    watching.append(1)
    yield opened
    watching.clear()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A whole clip on the disk, to which others refer."""
    path = tmp_path_factory.mktemp("disk") / "secret.avi"
    write_video(path, np.zeros((8, 32, 32, 3), np.uint8))
    return path


PLAYLISTS = {
    "a.ffconcat": "ffconcat version 1.0\nfile '{path}'\n",
    "b.ffconcat": "ffconcat version 1.0\nfile 'file:{path}'\n",
    "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{path}\n#EXT-X-ENDLIST\n",
    "b.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{path}\n#EXT-X-ENDLIST\n",
    "a.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("name", [*PLAYLISTS])
def test_a_playlist_plays_no_clip_of_the_disk(clip, name):
    assert len(read_frames(str(clip), np.arange)) == 8
    data = PLAYLISTS[name].format(path=clip).encode()
    for called in (name, "a.mp4", "a.avi"):
        with pytest.raises(ValueError, match=rf"^{called} is (not a video|a picture or a text)"):
            read_frames(EncodedFile(data, called), np.arange)


@pytest.mark.parametrize("name", [*PLAYLISTS])
def test_a_playlist_plays_no_sound_of_the_disk(clip, name):
    soundfile = pytest.importorskip("soundfile")
    clip = clip.with_name("secret.wav")
    soundfile.write(clip, np.sin(np.arange(16_000) * 0.2), 16_000)
    with pytest.raises(ValueError, match="cannot be read as sound"):
        read_sound(EncodedFile(PLAYLISTS[name].format(path=clip).encode(), "a.m4a"), 16_000)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ('<svg xmlns="http://www.w3.org/2000/svg"><image href="file://{path}"/></svg>', "an SVG drawing"),
        ('<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file://{path}">]><svg>&x;</svg>', "an SVG drawing"),
        ("%!PS-Adobe-3.0 EPSF-3.0\n({path}) run\n", "a page of PostScript"),
        ("%PDF-1.4\n", "a PDF"),
    ],
)
def test_a_drawing_or_page_is_refused_by_name(clip, data, what, files_opened):
    with pytest.raises(ValueError, match=rf"^a\.png is {what}"):
        read_image(EncodedFile(data.format(path=clip).encode(), "a.png"))
    assert clip.name not in files_opened


def test_a_mesh_reads_no_materials_of_the_disk(tmp_path, monkeypatch, files_opened):
    pytest.importorskip("trimesh")
    monkeypatch.chdir(tmp_path)
    Path("secret.mtl").write_text("newmtl a\nmap_Kd secret.png\n")
    opened.clear()
    data = f"mtllib secret.mtl\nmtllib {tmp_path}/secret.mtl\nusemtl a\n{CUBE}".encode()
    assert len(read_points(EncodedFile(data, "a.obj"), 50, np.random.default_rng(0))) == 50
    assert "secret.mtl" not in files_opened
    assert "secret.png" not in files_opened


def test_a_name_is_no_path(clip, files_opened):
    """Bytes are read and not what lies where their name says."""
    with pytest.raises(ValueError, match="is empty; expected"):
        read_frames(EncodedFile(b"", str(clip)), np.arange)
    with pytest.raises(ValueError, match="is empty; expected"):
        read_image(EncodedFile(b"", str(clip)))
    assert clip.name not in files_opened


def test_arrays_are_no_programs(files_opened):
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="it holds Python objects"):
        read_points(EncodedFile(file.getvalue(), "a.npy"), 10, np.random.default_rng(0))
