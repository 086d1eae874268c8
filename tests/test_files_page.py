"""The tables of docs/files.md are true: a file of each kind is made, and read or refused as its row says."""

import io
import re
import struct
import zipfile

import numpy as np
import pytest
import soundfile
from archive_builder import Name, save, tensor
from official_files import make_state
from pages import ROOT, cells, split_page
from PIL import Image
from tables import hours
from video_files import indices, stairs, write

from unireplknet_jax.data.clips.frames import read_frames
from unireplknet_jax.data.clips.sets import open_videos
from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.data.label_names import read_label_file
from unireplknet_jax.data.pictures.decode import read_image
from unireplknet_jax.data.pictures.sets import open_source
from unireplknet_jax.data.series.windows import checked, read_table
from unireplknet_jax.data.shapes.points import read_points
from unireplknet_jax.data.sounds.waveforms import read_sound
from unireplknet_jax.models.torch_archive import write_state_dict
from unireplknet_jax.tasks.checkpoint import open_checkpoint

PAGE = ROOT / "docs" / "files.md"
GREY = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (24, 1))
PICTURE = np.stack([GREY, GREY[:, ::-1], np.full_like(GREY, 60)], axis=-1)
RATE = 16_000
TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE) * np.hanning(RATE)


def kinds_on_the_page():
    """{(table, kind): (outcome, what is said)} of the page's tables whose second column is called "outcome"."""
    found, table = {}, ""
    for _, line in split_page(PAGE)[0]:
        row = [cell.strip() for cell in cells(line)] if line.startswith("|") else []
        if len(row) == 3 and row[1] == "outcome":
            table = row[0]
        elif len(row) == 3 and table and {*row[0]} != {"-"}:
            found[table, row[0]] = row[1], row[2]
        elif not row:
            table = ""
    return found


# ---- pictures


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def sees(data, expected=PICTURE, tolerance=6):
    found = np.asarray(read_image(EncodedFile(data, "a.jpg"))).astype(int)
    expected = np.repeat(expected[..., None], 3, axis=-1) if expected.ndim == 2 else expected
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance


def turned():
    exif = Image.Exif()
    exif[274] = 6
    for kind, options in (("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", {"lossless": True})):
        sees(encoded(Image.fromarray(PICTURE), kind, exif=exif, **options), np.rot90(PICTURE, -1))


def tiff(values, bits, photometric, raw):
    """A grey TIFF of one strip."""
    (h, w), tags = values.shape, {258: bits, 259: 1, 262: photometric, 273: 8, 277: 1}
    tags = {256: w, 257: h, **tags, 278: h, 279: len(raw)}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(raw)) + raw + struct.pack("<H", len(tags)) + entries + bytes(4)


def twelve_bits():
    values = (GREY.astype(np.int32) * 4095 // 255).ravel()
    first, second = values[::2], values[1::2]
    raw = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(np.uint8).tobytes()
    sees(tiff(GREY, 12, 1, raw), GREY)


def moving():
    frames = [Image.fromarray(PICTURE), Image.new("RGB", (32, 24), "blue")]
    for kind in ("PNG", "WEBP"):
        sees(encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True), PICTURE)
    sees(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), PICTURE, 40)


def in_cmyk():
    sees(encoded(Image.fromarray(PICTURE).convert("CMYK"), "JPEG", quality=95))


def white_is_zero():
    sees(tiff(GREY, 16, 0, (65535 - GREY.astype("<u2") * 257).astype("<u2").tobytes()), GREY)


def of_floats():
    for top in (1, 255, 65535):
        sees(encoded(Image.fromarray((GREY * (top / 255)).astype(np.float32)), "TIFF"), GREY)


def unseen(kind, expected):
    sees(encoded(Image.new("RGBA", (2, 2), (9, 9, 9, 0)), kind), np.full((2, 2), expected))


JPEG = encoded(Image.fromarray(PICTURE), "JPEG", quality=95)
PICTURES = {
    "JPEG in CMYK, as Adobe writes it": lambda _: in_cmyk(),
    "JPEG with an EXIF orientation": lambda _: turned(),
    "a JPEG called .png": lambda _: sees(JPEG),
    "PNG of 16 bits, grey": lambda _: sees(encoded(Image.fromarray(GREY.astype(np.uint16) * 257)), GREY),
    "TIFF of 12 bits": lambda _: twelve_bits(),
    "TIFF whose 0 is white, 16 bits": lambda _: white_is_zero(),
    "TIFF of floats": lambda _: of_floats(),
    "PNG with transparency": lambda _: unseen("PNG", 255),
    "TGA with an alpha channel of zeros": lambda _: unseen("TGA", 9),
    "GIF, APNG or WebP that moves": lambda _: moving(),
    "JPEG that is cut off": lambda _: sees(JPEG[:400]),
    "HEIC, whatever it is called": lambda _: sees(b"\0\0\0\x18ftypheic" + bytes(40)),
    "SVG called .png": lambda _: sees(b"<?xml version='1.0'?><svg/>"),
    "PostScript called .jpg": lambda _: sees(b"%!PS-Adobe-3.0 EPSF-3.0\n"),
    "a web page called .jpg": lambda _: sees(b"<!DOCTYPE html><html>"),
    "a Git LFS pointer": lambda _: sees(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
}


# ---- sounds


def sound(samples=TONE, rate=RATE, **options):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **{"format": "WAV", **options})
    return file.getvalue()


def hears(data, expected=TONE, tolerance=0.06, suffix="wav", **options):
    found = read_sound(EncodedFile(data, f"a.{suffix}"), RATE, **options)
    assert 0 <= len(found) - len(expected) < 600
    assert np.abs(found[: len(expected)] - expected).max() < tolerance


def of_all_depths():
    for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"):
        hears(sound(subtype=subtype), tolerance=0.01)
    hears(sound(np.stack([TONE] * 8, axis=1), format="WAVEX", subtype="PCM_24"))
    hears(sound(format="RF64"))


def without_length():
    data = bytearray(sound(subtype="PCM_16"))
    struct.pack_into("<I", data, 40, 0)
    hears(bytes(data))


def of_codecs():
    for subtype in ("ULAW", "MS_ADPCM", "IMA_ADPCM", "GSM610"):
        hears(sound(subtype=subtype))


def of_another_scale():
    data = sound(32768 * TONE, subtype="FLOAT")
    hears(data, scale=32768)
    hears(data)


def joined():
    for kind in ("MP3", "OGG", "FLAC", "WAV", "AIFF"):
        hears(2 * sound(format=kind), np.tile(TONE, 2), suffix=kind.lower())


def by_ffmpeg(codec, suffix, cut=1.0):
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format={"m4a": "mp4", "mka": "matroska"}[suffix]) as container:
        stream = container.add_stream(codec, rate=RATE, layout="mono")
        for index in range(0, RATE, 1000):
            frame = av.AudioFrame.from_ndarray(TONE[None, index : index + 1000].astype(np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = RATE, index
            for part in av.AudioResampler(format=stream.codec_context.format.name).resample(frame):
                container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    data = file.getvalue()
    found = read_sound(EncodedFile(data[: int(cut * len(data))], f"a.{suffix}"), RATE)
    assert abs(len(found) - RATE) < 3000


SOUNDS = {
    "WAV of 8, 16, 24 or 32 bits, of floats, extensible, RF64": lambda _: of_all_depths(),
    "WAV of mu-law, ADPCM, GSM": lambda _: of_codecs(),
    "WAV that states no length, of an interrupted recording": lambda _: without_length(),
    "WAV of floats that hold 16-bit numbers": lambda _: of_another_scale(),
    "WAV that is cut off": lambda _: hears(sound()[:9000]),
    "sounds one after the other in one MP3, Ogg, FLAC, WAV or AIFF": lambda _: joined(),
    "stereo whose channels cancel": lambda _: hears(sound(np.stack([TONE, -TONE], axis=1))),
    "another rate": lambda _: hears(sound(TONE[::2], RATE // 2)),
    "M4A, AAC, WMA, WebM": lambda _: by_ffmpeg("aac", "m4a"),
    "Matroska that is cut off": lambda _: by_ffmpeg("pcm_s16le", "mka", 0.5),
    "WAV without samples": lambda _: hears(sound(np.zeros(0))),
    "raw samples called .wav": lambda _: hears((32767 * TONE).astype("<i2").tobytes()),
}


# ---- clips


def watches(path, count=40):
    np.testing.assert_array_equal(indices(read_frames(path, np.arange)), np.arange(count))


def video(folder, name, codec="mpeg4", times=None, pix_fmt="yuv420p", frames=None):
    av = pytest.importorskip("av")
    from fractions import Fraction

    with av.open(str(folder / name), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, pixels in enumerate(stairs(40) if frames is None else frames):
            form = "rgba" if pixels.shape[-1] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), form)
            frame.pts, frame.time_base = (times or range(0, 1600, 40))[index], Fraction(1, 1000)
            container.mux(stream.encode(frame.reformat(format=pix_fmt)))
        container.mux(stream.encode(None))
    return folder / name


def turned_video(folder):
    """The header of the track is given another matrix: a quarter turn."""
    pixels = np.zeros((1, 48, 64, 3), np.uint8)
    pixels[:, :24] = 255
    data = video(folder, "a.mp4", frames=pixels).read_bytes()
    plain, quarter = ([65536, 0, 0, 0, 65536, 0], [0, 65536, 0, -65536, 0, 0])
    start = data.index(b"tkhd")
    place = data.index(struct.pack(">6i", *plain), start)
    (folder / "a.mp4").write_bytes(data[:place] + struct.pack(">6i", *quarter) + data[place + 24 :])
    found = read_frames(folder / "a.mp4", np.arange)[0].mean(axis=-1)
    assert found.shape == (64, 48)
    assert abs(float(found[:, :24].mean()) - float(found[:, 24:].mean())) > 200


CONTAINERS = {"mp4": "libx264", "mkv": "ffv1", "mov": "mpeg4", "webm": "libvpx-vp9", "avi": "mpeg4"}


def of_all_containers(folder):
    for suffix, codec in CONTAINERS.items():
        watches(write(folder / f"a.{suffix}", codec=codec))


def at_uneven_times(folder):
    watches(video(folder, "a.mp4", "libx264", times=[int(40 * index**1.2) for index in range(40)]))


def transparent(folder):
    pixels = np.zeros((1, 48, 64, 4), np.uint8)
    found = read_frames(video(folder, "a.mov", "qtrle", pix_fmt="argb", frames=pixels), np.arange)
    assert found.min() == 255


def cut(path, share=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def silent_film(folder):
    (folder / "a.mp4").write_bytes(sound())
    watches(folder / "a.mp4")


def still(folder):
    Image.new("RGB", (9, 9)).save(folder / "a.png")
    watches((folder / "a.png").rename(folder / "a.mp4"))


CLIPS = {
    "MP4, MKV, MOV, WebM, AVI, MPEG, GIF": of_all_containers,
    "a display matrix: turned or mirrored": turned_video,
    "frames at uneven times": at_uneven_times,
    "MOV with transparency": transparent,
    "MP4 that is cut off": lambda folder: watches(cut(write(folder / "a.mp4"))),
    "a picture called .mp4": still,
    "a file with sound alone": silent_film,
}


# ---- shapes


def samples(data, suffix, low=-0.5, high=0.5):
    """Points on the unit cube around the origin."""
    found = read_points(EncodedFile(data, f"a.{suffix}"), 4000, np.random.default_rng(0))
    assert len(found) == 4000
    np.testing.assert_allclose(found.min(axis=0), low, atol=0.02)
    np.testing.assert_allclose(found.max(axis=0), high, atol=0.02)


CORNERS = "".join(f"{x} {y} {z}\n" for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5))
FACES = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
QUADS = "".join(f"4 {' '.join(map(str, face))}\n" for face in FACES)


def off_files():
    for text in (
        f"OFF8 6 0\n{CORNERS}{QUADS}",
        f"# a\nOFF # b\n8 6 12\n{CORNERS}# c\n{QUADS}",
        f"OFF\n8 6 0\n{CORNERS}" + QUADS.replace("\n", " 255 0 0\n"),
    ):
        samples(text.encode(), "off")


def ply(form, kind="float", faces_first=False):
    corners = np.array(CORNERS.split(), float).reshape(8, 3)
    element = f"element vertex 8\n{''.join(f'property {kind} {axis}{chr(10)}' for axis in 'xyz')}"
    elements = [element, "element face 6\nproperty list uchar int vertex_indices\n"]
    if form == "ascii":
        parts = [CORNERS.encode(), QUADS.encode()]
    else:
        order = "<" if "little" in form else ">"
        parts = [corners.astype(f"{order}f{8 if kind == 'double' else 4}").tobytes()]
        parts.append(b"".join(struct.pack(f"{order}B4i", 4, *face) for face in FACES))
    if faces_first:
        elements, parts = elements[::-1], parts[::-1]
    samples(f"ply\nformat {form} 1.0\n{''.join(elements)}end_header\n".encode() + b"".join(parts), "ply")


def ply_files():
    ply("ascii", faces_first=True)
    ply("binary_little_endian")
    ply("binary_big_endian", "double")


def points(data, suffix, expected=((1, 2, 3), (4, 5, 6.5))):
    found = read_points(EncodedFile(data if isinstance(data, bytes) else data.encode(), f"a.{suffix}"), 9, None)
    np.testing.assert_array_equal(found, expected)


def without_faces():
    head = "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    points(f"{head}1 2 3\n4 5 6.5\n", "ply")
    points("v 1 2 3\nv 4 5 6.5\n", "obj")
    points("OFF\n2 0 0\n1 2 3\n4 5 6.5\n", "off")


def texts():
    plain = "1 2 3 9\n4 5 6.5 9\n"
    for text in (plain, *(plain.replace(" ", mark) for mark in ",;\t"), "id,x,y,z\n7,1,2,3\n8,4,5,6.5"):
        points(text, "csv")


def arrays(*found, save=np.save):
    file = io.BytesIO()
    save(file, *found)
    return file.getvalue()


def array_files():
    values = np.array([(1, 2, 3), (4, 5, 6.5)])
    fields = np.zeros(2, [(axis, float) for axis in "zyx"])
    fields["x"], fields["y"], fields["z"] = values.T
    points(arrays(values), "npy")
    points(arrays(fields), "npy")
    points(arrays(values, save=np.savez), "npz")


def far():
    values = np.array([(1, 2, 3), (4, 5, 6.5)]) + np.array([5e5, 4.6e6, 100])
    points("".join(f"{x:.1f} {y:.1f} {z:.1f}\n" for x, y, z in values), "xyz", values)


SHAPES = {
    "OFF with counts behind OFF, comments, colours, faces of any size": lambda _: off_files(),
    "OFF that is cut off in its faces": lambda _: samples(f"OFF\n8 6 0\n{CORNERS}{QUADS}"[:-6].encode(), "off"),
    "PLY, text or binary of either byte order, doubles, faces before vertices": lambda _: ply_files(),
    "PLY, OBJ or OFF without faces": lambda _: without_faces(),
    "text with blanks, commas, semicolons or tabs": lambda _: texts(),
    "text with decimal commas": lambda _: points("1,0;2;3\n4;5;6,5\n", "txt"),
    "text with the number of points in its first line": lambda _: points("2\n1 2 3\n4 5 6.5\n", "xyz"),
    "NPY or NPZ of numbers, or with fields x, y, z": lambda _: array_files(),
    "NPY of objects": lambda _: points(arrays(np.array([[{}]], object)), "npy"),
    "coordinates far from the origin": lambda _: far(),
    "coordinates that are not finite": lambda _: points("1 2 3\n4 nan 6.5\n", "xyz"),
}


# ---- tables of stations


def table(text, expected=((1.5, 2), (3, 4)), **options):
    times, values, names = read_table(EncodedFile(text.encode(), "a.csv"))
    found = checked("a.csv", times, values, names, **options)
    np.testing.assert_array_equal(found.values, expected)
    np.testing.assert_array_equal(found.times[:2], hours(2))


TIMES = ("2024-01-01 00:00", "2024-01-01 01:00")
PLAIN = f"time,a,b\n{TIMES[0]},1.5,2\n{TIMES[1]},3,4\n"


def fills():
    rows = "".join(f"2024-01-01 {hour:02}:00,{hour}.5\n" for hour in range(2, 9))
    text = f"time,a\n{TIMES[0]},-9999\n{TIMES[1]},1.5\n{rows}"
    kept = np.array([-9999, *(hour + 0.5 for hour in range(1, 9))])[:, None]
    table(text, np.where(kept < 0, np.nan, kept))
    table(text, kept, missing="")
    table(text, np.where(kept == 1.5, np.nan, kept), missing="1.5")
    table(text, np.where((kept == 1.5) | (kept < 0), np.nan, kept), missing="auto,1.5")


def missing_words():
    for word in ("NA", "n/a", "-", "#VALUE!", ""):
        table(PLAIN.replace("1.5", word), [[np.nan, 2], [3, 4]])


UNITS = "b\n,°C,m/s\n"


def separators():
    for text in (PLAIN, PLAIN.replace(",", ";"), PLAIN.replace(",", "\t"), "sep=;\n" + PLAIN.replace(",", ";")):
        table(text)


def decimal_commas():
    table(PLAIN.replace(",", ";").replace(".", ","))
    table(PLAIN.replace("1.5", '"1,5"'))


TABLES = {
    "commas, semicolons or tabs, `sep=;` above": lambda _: separators(),
    "decimal commas between semicolons, tabs or quotes": lambda _: decimal_commas(),
    '"1,234" between quotes': lambda _: table(PLAIN.replace("1.5", '"1,234"')),
    "NA, n/a, -, #VALUE!, empty cells": lambda _: missing_words(),
    "-9999 far off all other values": lambda _: fills(),
    "a row of units below the header, comments above it": lambda _: table(f"# x\n{PLAIN}".replace("b\n", UNITS)),
    "offsets of time, as in summer time": lambda _: table(
        "time,a,b\n2024-01-01T01:00+01:00,1.5,2\n2024-01-01T03:00+02:00,3,4\n"
    ),
    "a time that occurs twice": lambda _: table(PLAIN + f"{TIMES[1]},5,6\n"),
    "dates as 31.01.2024": lambda _: table(PLAIN.replace("2024-01-01", "01.01.2024")),
}


# ---- lists and classes


def tree(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def classes(folder, split="val"):
    source = open_source("folder", split, folder)
    return source.labels, [source.labels[source[i]["label"]] for i in range(len(source))]


def left_behind(folder):
    tree(folder, "val/cat/1.png", "val/cat/._1.png", "val/__MACOSX/cat/1.png", "val/@eaDir/1.png", "val/cat/Thumbs.db")
    assert classes(folder) == (("cat",), ["cat"])


def whole_numbers(folder):
    assert classes(tree(folder, "val/10/a.png", "val/2/a.png")) == (("2", "10"), ["2", "10"])


def numbered(folder):
    videos(folder, "00", "01", "1")
    videos(folder, "0.0", "1.0", "1")


def other_letters(folder):
    tree(folder, "train/Käse brot/1.png", "val/KA\u0308SE_Brot/2.png")
    assert len(classes(folder)[1]) == 1


def flat(folder, text):
    tree(folder, "train/cat/1.png", "train/dog/1.png", "val/1.png", "val/2.png")
    (folder / "val.txt").write_text(text)
    assert classes(folder)[1] == ["cat", "dog"]


def videos(folder, *labels):
    (folder / "train.csv").write_text("".join(f"{i}.mp4 {label}\n" for i, label in enumerate(labels)))
    source = open_videos("video_csv", "train", folder)
    assert (source.labels, source.targets.tolist()) == (("0", "1"), [0, 1, 1])


def label_files(folder):
    for text in ("Käse\r\nBrot\r\n", '["Käse", "Brot"]', '{"0": "Käse", "1": "Brot"}'):
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "cp1252"):
            (folder / "labels").write_bytes(text.encode(encoding))
            assert read_label_file(folder / "labels") == ("Käse", "Brot")


LISTS = {
    "class folders with files that systems leave behind": left_behind,
    "class folders whose names are whole numbers": whole_numbers,
    "val with other letters, accents in two parts, or underscores": other_letters,
    "val in one folder, val.txt with a file and a class a line": lambda folder: flat(folder, "1.png cat\n2.png dog\n"),
    "val in one folder, numbers of classes from 1": lambda folder: flat(folder, "1\n2\n"),
    "a list of videos with classes 00, 01 or 1.0": numbered,
    "a list of videos with the class -1": lambda folder: videos(folder, "0", "-1", "1"),
    "class names of any editor, or as JSON": label_files,
}


# ---- checkpoints


@pytest.fixture(scope="module")
def state():
    return make_state(deploy=True)


def opens(path, state, **options):
    found = open_checkpoint(path, **options)
    np.testing.assert_allclose(found.variables["params"]["head"]["bias"], state["head.bias"], rtol=1e-2)


def stored(folder, state, name, prefix=""):
    suffix = ".safetensors" if "safetensors" in name else ".pth"
    write_state_dict(folder / f"x{suffix}", {prefix + key: value for key, value in state.items()})
    return (folder / f"x{suffix}").rename(folder / name)


def many_types(folder, state):
    for kind in ("float16", "float64"):
        write_state_dict(folder / "a.pth", {name: value.astype(kind) for name, value in state.items()})
        opens(folder / "a.pth", state)
    save(folder / "b.pth", {name: tensor(value) for name, value in state.items()})
    opens(folder / "b.pth", state)


def two_networks(folder, state):
    both = {f"{prefix}.{name}": value for prefix in ("student", "teacher") for name, value in state.items()}
    write_state_dict(folder / "a.pth", both)
    opens(folder / "a.pth", state, prefix="teacher")
    opens(folder / "a.pth", state)


def unzipped(folder, state):
    with zipfile.ZipFile(stored(folder, state, "a.pth")) as archive:
        archive.extractall(folder / "a")
    opens(folder / "a" / "archive", state)


def with_bytes(folder, state, data):
    (folder / "a.pth").write_bytes(data)
    opens(folder / "a.pth", state)


def of_the_hub(folder, state):
    stored(folder, state, "model.safetensors")
    opens(folder, state)


CHECKPOINTS = {
    ".pth since PyTorch 1.6, under any name": lambda folder, state: opens(stored(folder, state, "a.bin"), state),
    ".safetensors, under any name": lambda folder, state: opens(
        stored(folder, state, "a.safetensors").rename(folder / "b.pth"), state
    ),
    "half precision, bfloat16, shared and strided tensors": many_types,
    "prefixes and entries of other programs": lambda folder, state: opens(
        stored(folder, state, "a.ckpt", "module._orig_mod.model."), state
    ),
    "two networks in one file": two_networks,
    ".pth of PyTorch before 1.6": lambda folder, state: with_bytes(
        folder, state, b"\x80\x02\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little") + b"."
    ),
    "a whole module, pickled": lambda folder, state: opens(save(folder / "a.pth", Name("torch.nn.Linear")), state),
    "an unzipped .pth": unzipped,
    "a folder of the Hugging Face hub without a card": of_the_hub,
    "packed by gzip": lambda folder, state: with_bytes(folder, state, b"\x1f\x8b\x08" + bytes(40)),
    "a server's message": lambda folder, state: with_bytes(folder, state, b'{"error": "no such repository"}'),
    "cut off": lambda folder, state: opens(cut(stored(folder, state, "a.pth")), state),
}

KINDS = {
    "pictures": PICTURES,
    "sounds": SOUNDS,
    "clips": CLIPS,
    "shapes": SHAPES,
    "tables of stations": TABLES,
    "lists and classes": LISTS,
    "checkpoints": CHECKPOINTS,
}
MADE = {(table, kind): make for table, kinds in KINDS.items() for kind, make in kinds.items()}


def test_every_row_of_the_page_is_tried():
    assert MADE.keys() == kinds_on_the_page().keys()
    assert {outcome for outcome, _ in kinds_on_the_page().values()} == {"read", "refused"}


@pytest.mark.parametrize(("table", "kind"), MADE, ids=[f"{table}: {kind}" for table, kind in MADE])
def test_files_are_read_or_refused_as_the_page_says(table, kind, tmp_path, state):
    outcome, how = kinds_on_the_page()[table, kind]
    arguments = (tmp_path, state) if table == "checkpoints" else (tmp_path,)
    if outcome == "read":
        MADE[table, kind](*arguments)
        return
    said = re.match(r'"([^"]+)"', how)[1]
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        MADE[table, kind](*arguments)
    assert "\n" not in str(raised.value)
