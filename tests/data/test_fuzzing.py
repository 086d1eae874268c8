"""No file of a user ends in a stack trace, fills the memory or takes for ever: searched with seeds, within bounds."""

import io

import numpy as np
import pytest
from fuzzing import bounded, mutated, survived
from hypothesis import given
from hypothesis import strategies as st

from unireplknet_jax.data.clips.sets import open_videos
from unireplknet_jax.data.files import EncodedFile
from unireplknet_jax.data.label_names import read_label_file
from unireplknet_jax.data.pictures.decode import read_image
from unireplknet_jax.data.pictures.mask_classes import read_classes
from unireplknet_jax.data.pictures.masks import read_mask
from unireplknet_jax.data.series.windows import checked, read_table
from unireplknet_jax.data.shapes.points import read_points
from unireplknet_jax.data.sounds.sets import open_sounds
from unireplknet_jax.data.sounds.waveforms import read_sound

pytestmark = pytest.mark.slow
TABLE = "time,a,b\n" + "".join(f"2024-01-0{day},{day}.5,{-day}\n" for day in range(1, 8))
CORNERS = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n"
PLY = "ply\nformat {} 1.0\nelement vertex 4\n{}element face 1\nproperty list uchar int vertex_indices\nend_header\n"
XYZ = "property float x\nproperty float y\nproperty float z\n"
MESHES = {
    ".off": [
        f"OFF\n4 1 0\n{CORNERS}4 0 1 2 3\n",
        f"COFF\n4 2 0\n{CORNERS}3 0 1 2\n3 0 2 3 255 0 0\n",
        "OFF 1 0 0\n0 0 0",
    ],
    ".ply": [PLY.format("ascii", XYZ) + f"{CORNERS}4 0 1 2 3\n", PLY.format("ascii", XYZ)],
    ".obj": ["mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvn 0 0 1\nf 1//1 2//1 3//1\n"],
    ".stl": [
        "solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendloop\nendfacet\nendsolid"
    ],
    ".xyz": [CORNERS, "x;y;z\n0,5;1;2\n1;2,5;3\n", "3\n1 2 3\n4 5 6\n7 8 9"],
}


def sounds(*kinds):
    import soundfile

    tone, found = 0.5 * np.sin(np.arange(2000) / 9), []
    for options in kinds:
        file = io.BytesIO()
        soundfile.write(
            file,
            np.stack([tone, tone], axis=1) if options.get("two") else tone,
            8000,
            format=options["format"],
            subtype=options.get("subtype"),
        )
        found.append(file.getvalue())
    return found


def binary_mesh():
    head = PLY.format("binary_little_endian", XYZ).encode()
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], "<f4").tobytes()
    return head + corners + b"\4" + np.arange(4, dtype="<i4").tobytes()


def arrays():
    found = []
    for save in (np.save, np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, np.arange(30.0).reshape(10, 3))
        found.append(file.getvalue())
    return found


def test_sounds():
    kinds = [
        {"format": "WAV"},
        {"format": "WAV", "subtype": "FLOAT", "two": True},
        {"format": "WAV", "subtype": "MS_ADPCM"},
    ]
    kinds += [
        {"format": "WAVEX"},
        {"format": "RF64"},
        {"format": "W64"},
        {"format": "AIFF"},
        {"format": "AU"},
        {"format": "CAF"},
    ]
    kinds += [{"format": "FLAC"}, {"format": "OGG"}, {"format": "MP3"}, {"format": "WAV", "subtype": "GSM610"}]

    @bounded(400)
    @given(mutated(sounds(*kinds)))
    def search(data):
        survived(read_sound, EncodedFile(data, "a.wav"), 16_000)

    search()


@pytest.mark.parametrize("suffix", MESHES)
def test_shapes(suffix):
    files = [text.encode() for text in MESHES[suffix]]
    if suffix == ".ply":
        files.append(binary_mesh())
    if suffix == ".stl":
        files.append(bytes(80) + b"\1\0\0\0" + np.eye(4, 3, dtype="<f4").tobytes() + b"\0\0")

    @bounded(250)
    @given(mutated(files))
    def search(data):
        survived(read_points, EncodedFile(data, f"a{suffix}"), 50, np.random.default_rng(0))

    search()


def test_arrays_of_points():
    @bounded(300)
    @given(st.sampled_from((".npy", ".npz")), mutated(arrays()))
    def search(suffix, data):
        survived(read_points, EncodedFile(data, f"a{suffix}"), 50, np.random.default_rng(0))

    search()


def read_series(data):
    times, values, names = read_table(EncodedFile(data, "a.csv"))
    checked("a.csv", times, values, names)


def test_tables():
    files = [TABLE.encode(), TABLE.replace(",", ";").replace(".", ",").encode("utf-16"), ("sep=;\n" + TABLE).encode()]

    @bounded(600)
    @given(st.one_of(mutated(files), st.text("0159.,;\t\n\"'-:T e\u00a0é#=", max_size=80).map(str.encode)))
    def search(data):
        survived(read_series, data)

    search()


def test_lists_of_videos_and_sounds_and_labels(tmp_path):
    lists = [
        "a.mp4 0\nb.mp4 1\n",
        'path,label\n"a, b.mp4",run\nc.mp4,sit\n',
        "label,youtube_id,time_start,time_end\nx,y,0,10\n",
    ]
    labels = ["cat\ndog\n", '{"0": "cat", "1": ["n1", "dog"]}', '["cat", "dog"]']
    classes = 'index,mid,display_name\n0,/m/1,"Speech"\n1,/m/2,"Child, speech"\n'
    rows = '# YTID\na, 0, 10, "/m/1,/m/2"\nb.wav,0,1,Speech\n'
    (tmp_path / "x").mkdir()
    for name in ("a.wav", "b.wav"):
        (tmp_path / "x" / name).touch()

    @bounded(500)
    @given(mutated([text.encode() for text in (*lists, *labels, classes, rows)]))
    def search(data):
        (tmp_path / "train.csv").write_bytes(data)
        survived(open_videos, "video_csv", "train", tmp_path)
        (tmp_path / "labels.txt").write_bytes(data)
        survived(read_label_file, tmp_path / "labels.txt")
        (tmp_path / "labels.txt").unlink()
        for own, file in ((classes, rows), (data.decode("latin-1"), rows), (classes, data.decode("latin-1"))):
            (tmp_path / "class_labels_indices.csv").write_text(own, encoding="latin-1")
            (tmp_path / "x.csv").write_text(file, encoding="latin-1")
            survived(open_sounds, "csv", "x", tmp_path)

    search()


def test_pictures():
    from PIL import Image

    picture, files = Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)), []
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"):
        file = io.BytesIO()
        picture.save(file, kind)
        files.append(file.getvalue())
    for mode, kind in (("I;16", "TIFF"), ("I;16", "PNG"), ("P", "PNG"), ("1", "TIFF"), ("CMYK", "TIFF")):
        file = io.BytesIO()
        Image.new(mode, (7, 5)).save(file, kind)
        files.append(file.getvalue())

    @bounded(600)
    @given(mutated(files))
    def search(data):
        survived(read_image, EncodedFile(data, "a.png"))
        survived(read_mask, EncodedFile(data, "a.png"), (0, 1, 2))
        survived(read_mask, EncodedFile(data, "a.png"), (0, 1), ((0, 1, 2), (255, 255, 255)))

    search()


def test_lists_of_classes_of_masks(tmp_path):
    lists = ["road,0,#804080\nsky,7,70 130 180\n", "name;value;r;g;b\nroad;0;1;2;3\n", "0: road\n1: sky\n"]

    @bounded(500)
    @given(mutated([text.encode() for text in lists]))
    def search(data):
        (tmp_path / "classes.csv").write_bytes(data)
        survived(read_classes, tmp_path / "classes.csv")

    search()
