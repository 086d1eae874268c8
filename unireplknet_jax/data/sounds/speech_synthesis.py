"""The 35 words of Speech Commands, spoken by espeak-ng in many voices and laid out as Speech Commands V2 is.

Nobody is recorded: it is a set to try the whole pipeline on, where a number says that learning works, and no more.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from unireplknet_jax.data.label_names import read_labels
from unireplknet_jax.data.made_up import cache_folder
from unireplknet_jax.data.sounds.waveforms import EncodedSound, read_sound

RATE = 16_000
ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc")
_VOICES = {  # espeak-ng's variants: no one of them speaks in two splits
    "train": (
        "m1 m2 m3 m5 m6 m8 f1 f2 f4 adam Alex Alicia Andrea Andy antonio belinda benjamin boris caleb Denis Diogo "
        "Gene Henrique Hugo iven Jacky john linda Mario max michel Mike Nguyen pablo paul pedro quincy rob robert "
        "steph travis victor zac anika"
    ),
    "validation": "m7 f5 david steph2",
    "test": "m4 f3 Annie ed Lee Michael sandro shelby grandpa norbert",
}
VOICES = {split: names.split() for split, names in _VOICES.items()}
TAKES = {"train": 4, "validation": 1, "test": 1}  # of every word in every voice, each of another accent, speed, pitch


def render_commands(folder: Path | None = None) -> Path:
    """The folder of the spoken words, rendered the first time: 6,650 files, 209 MB, a few minutes.

    folder: where; None: ~/.cache/unireplknet_jax/synthetic_commands. What is rendered is a function of the version of
    espeak-ng alone. Raises ImportError without espeak-ng.
    """
    folder = folder or cache_folder("synthetic_commands")
    if (folder / "testing_list.txt").is_file():
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something else than spoken words; give a folder that is not there yet")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _render(scratch)
        if folder.exists():
            folder.rmdir()
        os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _render(folder: Path) -> None:
    words = read_labels("speech_commands")
    jobs = [
        (word, voice, take, split)
        for split, names in VOICES.items()
        for voice in names
        for take in range(TAKES[split])
        for word in words
    ]
    for word in words:
        (folder / word).mkdir()

    def render(number):
        word, voice, take, _ = jobs[number]
        rng = np.random.default_rng(number)
        sound = speak(word, f"{rng.choice(ACCENTS)}+{voice}", int(rng.integers(130, 221)), int(rng.integers(30, 71)))
        _write(folder / word / f"{voice}_{take}.wav", _one_second(sound, rng))

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the work is done in other processes
        list(pool.map(render, range(len(jobs))))
    for split, file in (("test", "testing_list.txt"), ("validation", "validation_list.txt")):
        names = [f"{word}/{voice}_{take}.wav" for word, voice, take, part in jobs if part == split]
        (folder / file).write_text("\n".join(sorted(names)) + "\n")


def speak(text: str, voice: str = "en-us", speed: int = 160, pitch: int = 50) -> np.ndarray:
    """(samples,) float64 at 16,000 a second: a text, spoken. voice: accent+variant; speed: words a minute; pitch: 0..99

    Raises ImportError without espeak-ng, ValueError where it does not know the voice or says nothing.
    """
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", "--", text]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise ImportError(
            "speaking words needs the program espeak-ng, which is missing: apt-get install espeak-ng"
        ) from error
    if done.returncode or len(done.stdout) < 100:
        reason = done.stderr.decode(errors="replace").strip() or "no sound"
        raise ValueError(
            f"espeak-ng does not say {text!r} in the voice {voice} ({reason}); see espeak-ng --voices=variant"
        )
    return read_sound(EncodedSound(done.stdout, f"what espeak-ng says for {text!r}"), RATE)


def _one_second(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(16000,): the loud part of a sound, at a random place and loudness over faint noise."""
    loud = np.flatnonzero(np.abs(sound) > 0.02 * np.abs(sound).max())
    sound = sound[loud[0] : loud[-1] + 1][:RATE]
    start = int(rng.integers(0, RATE - len(sound) + 1))
    placed = np.pad(sound, (start, RATE - len(sound) - start))
    return rng.uniform(0.3, 0.9) * placed / np.abs(sound).max() + 10 ** rng.uniform(-4, -2.3) * rng.standard_normal(
        RATE
    )


def _write(path: Path, sound: np.ndarray) -> None:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.clip(sound, -1, 1), RATE, subtype="PCM_16", format="WAV")
    path.write_bytes(file.getvalue())
