"""Small data sets of ordinary files, whose classes a person tells apart by eye or by ear, in folders of classes.

Of pictures with masks the classes are those of pixels, and the folders are of pictures and masks.
"""

from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = {"train": 30, "val": 10}  # files of each class
MASKS = {"ground": 0, "blue": 3, "green": 5, "red": 8, "yellow": 13}  # values in the masks
RATE = 16_000
FORMS = ("cone", "cube", "sphere", "torus")
OUTLINES = ("cross", "disc", "ring", "square")
HUES = {"blue": (40, 60, 220), "green": (40, 190, 60), "red": (220, 40, 40), "yellow": (230, 220, 40)}
TURNS = {"down": (1, 0), "left": (0, -1), "right": (0, 1), "up": (-1, 0)}


def write(folder, kind, splits=SPLITS):
    """Write folder/{train,val}/CLASS/FILE of a kind, one of `KINDS`, or "masks"; the same files every time."""
    if kind == "masks":
        return write_masks(folder, splits)
    classes, write_one, ending = KINDS[kind]
    for split, count in splits.items():
        for label, name in enumerate(classes):
            (Path(folder) / split / name).mkdir(parents=True)
            for index in range(count):
                rng = np.random.default_rng([[*splits].index(split), label, index])
                write_one(Path(folder) / split / name / f"{index:02}{ending}", name, rng)
    return Path(folder)


def write_masks(folder, splits=SPLITS):
    """Write folder/{train,val}/{images,masks}/NUMBER.png and folder/classes.csv: blots of colours, no two alike."""
    folder = Path(folder)
    for split, count in splits.items():
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for index in range(count):
            image, mask = _blots(np.random.default_rng([[*splits].index(split), index]))
            Image.fromarray(image).save(folder / split / "images" / f"{index:02}.png")
            Image.fromarray(mask).save(folder / split / "masks" / f"{index:02}.png")
    (folder / "classes.csv").write_text("".join(f"{name},{value}\n" for name, value in MASKS.items()))
    return folder


def _blots(rng):
    """(pixels (72, 96, 3), mask (72, 96)), uint8: a disc, ring, square or cross of each colour, in noise on grey."""
    y, x = np.mgrid[-1:1:72j, -1:1:96j]
    pixels, mask = np.full((72, 96, 3), rng.uniform(60, 180)), np.zeros((72, 96), np.uint8)
    for turn, name in enumerate(rng.permutation([*HUES])[:3]):
        inside = _outline(str(rng.choice(OUTLINES)), rng, x - 0.6 * (turn - 1), y * 0.75)
        pixels[inside] = rng.uniform(0.6, 1.1) * np.array(HUES[name])
        mask[inside] = MASKS[name]
    pixels += rng.normal(0, 12, pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8), mask


def _picture(draw):
    """A writer of 96 x 72 pixels: what `draw` gives for coordinates from -1 to 1, in a colour on another, in noise."""

    def write_one(path, name, rng):
        y, x = np.mgrid[-1:1:72j, -1:1:96j]
        cover = np.clip(draw(name, rng, x, y * 0.75), 0, 1)[..., None]
        first, second = rng.uniform(150, 255, 3), rng.uniform(0, 105, 3)
        if rng.random() < 0.5:
            first, second = second, first
        pixels = cover * first + (1 - cover) * second + rng.normal(0, 12, (72, 96, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)

    return write_one


def _outline(name, rng, x, y):
    """A disc, a ring, a square or a cross, anywhere, of any size."""
    size = rng.uniform(0.25, 0.45)
    x, y = x - rng.uniform(-0.4, 0.4), y - rng.uniform(-0.2, 0.2)
    distance, side = np.hypot(x, y), np.maximum(np.abs(x), np.abs(y))
    inside = {
        "cross": (side < size) & (np.minimum(np.abs(x), np.abs(y)) < 0.3 * size),
        "disc": distance < size,
        "ring": (distance < size) & (distance > 0.6 * size),
        "square": side < 0.85 * size,
    }
    return inside[name]


def _texture(name, rng, x, y):
    """Dots, a chessboard, stripes or grain, of any size and turn."""
    angle, frequency = rng.uniform(0, np.pi), rng.uniform(12, 24)
    u = frequency * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6)
    v = frequency * (y * np.cos(angle) - x * np.sin(angle)) + rng.uniform(0, 6)
    return {
        "chessboard": np.sin(u) * np.sin(v) > 0,
        "dots": np.cos(u) + np.cos(v) > 1,
        "grain": rng.random(x.shape) > 0.5,
        "stripes": np.sin(u) > 0,
    }[name]


def _direction(name, rng, x, y):
    """Stripes of one of four directions, some degrees off."""
    angle = np.pi / 4 * ("lying", "rising", "standing", "falling").index(name) + rng.normal(0, 0.1)
    along = x * np.sin(angle) + y * np.cos(angle)
    return 0.5 + 0.5 * np.sin(rng.uniform(8, 20) * along + rng.uniform(0, 6))


def _coloured(path, name, rng):
    """A blot of a colour, on grey."""
    y, x = np.mgrid[-1:1:72j, -1:1:96j]
    cover = np.hypot(x - rng.uniform(-0.5, 0.5), y - rng.uniform(-0.5, 0.5)) < rng.uniform(0.3, 0.6)
    shade = rng.uniform(0.6, 1.1) * np.array(HUES[name])
    pixels = np.where(cover[..., None], shade, rng.uniform(40, 200)) + rng.normal(0, 12, (72, 96, 3))
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


def _sound(play):
    """A writer of WAV files: what `play` gives for a time of 0.7 to 1.2 seconds, in noise, at any loudness."""

    def write_one(path, name, rng):
        import soundfile

        seconds = rng.uniform(0.7, 1.2)
        time = np.arange(int(seconds * RATE)) / RATE
        wave = play(name, rng, time / seconds, seconds)
        wave = wave / np.sqrt(np.mean(wave**2)) + rng.normal(0, 0.3, time.size)
        soundfile.write(path, rng.uniform(0.02, 0.15) * wave, RATE)

    return write_one


def _chirp(name, rng, place, seconds):
    """A tone that rises, falls, or does one after the other, over one to two octaves."""
    low, octaves = rng.uniform(300, 900), rng.uniform(1, 2)
    height = {"fall": 1 - place, "rise": place, "hill": 1 - abs(2 * place - 1), "valley": abs(2 * place - 1)}[name]
    return np.sin(2 * np.pi * np.cumsum(low * 2 ** (octaves * height)) / RATE)


def _pitch(name, rng, place, seconds):
    """A tone with overtones, of one of four octaves."""
    base = {"bass": 110, "tenor": 220, "alto": 440, "soprano": 880}[name] * 2 ** rng.uniform(0.05, 0.75)
    tones = [rng.uniform(0.2, 1) / k * np.sin(2 * np.pi * k * base * place * seconds) for k in (1, 2, 3)]
    return sum(tones)


def _noise(name, rng, place, seconds):
    """Noise in bursts or at a stretch, hissing or rumbling."""
    spectrum = np.fft.rfft(rng.normal(size=place.size))
    edge = rng.uniform(900, 1500)
    frequency = np.fft.rfftfreq(place.size, 1 / RATE)
    spectrum[(frequency < 2 * edge) if "hiss" in name else (frequency > edge)] = 0
    wave = np.fft.irfft(spectrum, place.size)
    return wave * (np.sin(2 * np.pi * rng.uniform(5, 8) * place * seconds) > 0) if "bursts" in name else wave


def _moving(path, name, rng):
    """A blot of any colour and size that moves to one side over 64 x 64 pixels, whose edges meet."""
    from unireplknet_jax.data.clips.moving_shapes import write_video

    y, x = np.mgrid[:64, :64] - 32
    radius = rng.uniform(7, 12)
    blot = np.hypot(x, y) < radius if rng.random() < 0.5 else np.maximum(abs(x), abs(y)) < radius
    ground, colour = rng.integers(0, 90, 3), rng.integers(160, 256, 3)
    places = rng.uniform(0, 64, 2) + rng.uniform(1, 2) * np.array(TURNS[name]) * np.arange(40)[:, None]
    masks = np.stack([np.roll(blot, tuple(shift), (0, 1)) for shift in np.rint(places).astype(int)])
    write_video(path, np.where(masks[..., None], colour, ground).astype(np.uint8))


def _changing(path, name, rng):
    """A blot that grows, shrinks, blinks or stays as it is."""
    from unireplknet_jax.data.clips.moving_shapes import write_video

    y, x = np.mgrid[:64, :64] - rng.uniform(24, 40, 2)[:, None, None]
    time = np.linspace(0, 1, 40)[:, None, None]
    radius = rng.uniform(12, 18) * np.ones_like(time)
    if name in ("grows", "shrinks"):
        radius = 4 + 18 * (time if name == "grows" else 1 - time)
    if name == "blinks":
        radius = radius * (np.sin(2 * np.pi * (5 * time + rng.random())) > 0)
    ground, colour = rng.integers(0, 90, 3), rng.integers(160, 256, 3)
    write_video(path, np.where((np.hypot(x, y) < radius)[..., None], colour, ground).astype(np.uint8))


def _solid(path, name, rng):
    """A mesh with random proportions and turn about z, its corners in noise."""
    from trimesh import creation, transformations

    a, b = rng.uniform(0.7, 1.3, 2)
    mesh = {
        "cone": lambda: creation.cone(radius=0.8 * a, height=1.6 * b, sections=32),
        "cube": lambda: creation.box((a, a * rng.uniform(0.8, 1.2), b)),
        "sphere": lambda: creation.icosphere(subdivisions=3, radius=a),
        "torus": lambda: creation.torus(a, a * rng.uniform(0.2, 0.4), major_sections=32, minor_sections=16),
    }[name]()
    mesh.vertices += rng.normal(0, 0.02, mesh.vertices.shape)
    mesh.apply_transform(transformations.rotation_matrix(rng.uniform(0, 2 * np.pi), (0, 0, 1)))
    mesh.export(str(path))


KINDS = {  # classes, the writer of a file, its ending
    "outlines": (OUTLINES, _picture(_outline), ".png"),
    "textures": (("chessboard", "dots", "grain", "stripes"), _picture(_texture), ".png"),
    "directions": (("falling", "lying", "rising", "standing"), _picture(_direction), ".png"),
    "colours": (tuple(HUES), _coloured, ".png"),
    "chirps": (("fall", "hill", "rise", "valley"), _sound(_chirp), ".wav"),
    "pitches": (("alto", "bass", "soprano", "tenor"), _sound(_pitch), ".wav"),
    "noises": (("hiss", "hiss bursts", "rumble", "rumble bursts"), _sound(_noise), ".wav"),
    "motions": (tuple(TURNS), _moving, ".mp4"),
    "changes": (("blinks", "grows", "shrinks", "stays"), _changing, ".mp4"),
    "solids": (FORMS, _solid, ".off"),
}
