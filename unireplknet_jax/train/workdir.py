"""The folder of a run: checked before the run begins, and mirrored where it is a bucket."""

import importlib.util
import os
import pathlib
import shutil
import tempfile
import weakref

import jax


class Workdir:
    """Where a run writes. `root`: for Orbax, a local path or a bucket's; `local`: for everything else.

    Raises OSError if the folder cannot be written, ImportError for a bucket without the package that reads it.
    """

    def __init__(self, path):
        text = os.fspath(path)
        self._bucket = "://" in text
        if not self._bucket:
            self.root = self.local = pathlib.Path(path).absolute()
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self.root) as probe:
                    probe.write(b"written")
            except OSError as error:
                raise OSError(
                    f"the workdir {path} cannot be written ({error.strerror}); choose another --workdir."
                ) from error
            return
        self.root = _open_bucket(text)
        self.local = pathlib.Path(tempfile.mkdtemp(prefix="unireplknet_"))
        weakref.finalize(self, shutil.rmtree, self.local, ignore_errors=True)
        if (self.root / "metrics.jsonl").exists():
            (self.local / "metrics.jsonl").write_bytes((self.root / "metrics.jsonl").read_bytes())

    def require_room(self, needed_bytes):
        """Raise OSError if the disk has too little room for what the run will write."""
        if self._bucket:
            return
        free = shutil.disk_usage(self.root).free
        held = sum(file.stat().st_size for file in (self.root / "checkpoints").rglob("*") if file.is_file())
        if free + held < needed_bytes:
            raise OSError(
                f"the disk of {self.root} has {free / 2**20:,.0f} MiB free, but the checkpoints of this run take "
                f"{needed_bytes / 2**20:,.0f} MiB; free some, or choose another --workdir or a smaller checkpoint.keep."
            )

    def publish(self):
        """Copy what process 0 has written locally into the bucket; nothing to do for a local folder."""
        if not self._bucket or jax.process_index() != 0:
            return
        for file in self.local.rglob("*"):
            if file.is_file():
                target = self.root / file.relative_to(self.local).as_posix()
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())


def _open_bucket(text):
    if not text.startswith("gs://"):
        raise ValueError(f"the workdir {text} is neither a folder nor a gs:// address.")
    if importlib.util.find_spec("gcsfs") is None:
        raise ImportError(
            f"the workdir {text} needs the extra gcs: pip install 'unireplknet_jax[gcs]' (in a clone: -e '.[gcs]')."
        )
    from etils import epath

    folder = epath.Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".written_by_{jax.process_index()}"
        probe.write_text("written")
        probe.unlink()
    except Exception as error:  # no credentials, no bucket, no permission: gcsfs has many names for them
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OSError(f"the workdir {text} cannot be written ({reason}).") from error
    return folder
