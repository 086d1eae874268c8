"""The folder of a run: checked before the run begins, and mirrored where it is a bucket."""

import contextlib
import errno
import importlib.util
import logging
import os
import pathlib
import shutil
import socket
import tempfile
import weakref

import jax

from unireplknet_jax.data.files import clear_staging
from unireplknet_jax.train.distributed import from_first_process
from unireplknet_jax.train.metrics import FILE as METRICS
from unireplknet_jax.train.run_file import FILE as RUN
from unireplknet_jax.train.run_file import last_start

_log = logging.getLogger(__name__)


CHECKPOINTS = ("model", "best", "model_ema", "best_ema")  # that a run exports
_LOCK = ".lock"


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
                reason = "it is a file" if self.root.is_file() else error.strerror
                raise OSError(f"the workdir {path} cannot be written ({reason}); choose another --workdir.") from error
            return
        self.root, self._sent = _open_bucket(text), {}
        self.local = pathlib.Path(tempfile.mkdtemp(prefix="unireplknet_"))
        weakref.finalize(self, shutil.rmtree, self.local, ignore_errors=True)
        for name in (METRICS, RUN):
            if (self.root / name).exists():
                (self.local / name).write_bytes((self.root / name).read_bytes())

    @contextlib.contextmanager
    def held(self):
        """Keep other runs out of a local folder, and tidy up what runs that were killed left in it.

        Raises OSError, on all processes, where another run is at work in it. The lock ends with the process, however
        that ends. In a bucket, which has no locks, the later run wins: see `publish`.
        """
        if self._bucket:
            yield
            return
        with open(self.root / _LOCK, "a+") as file:  # it stays: to delete it would race with who opens it
            from_first_process(lambda: self._lock(file))
            yield

    def _lock(self, file):
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise OSError(
                f"another run is at work in the workdir {self.root} ({file.read().strip() or 'it has just begun'}); "
                "wait for its end or stop it, or choose another --workdir."
            ) from None
        except OSError as error:
            _log.warning("%s cannot be locked (%s); let no other run write there", self.root, error.strerror)
            return
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
        for name in CHECKPOINTS:
            clear_staging(self.root / name)

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
        """Copy what process 0 has written locally since the last time into the bucket; a local folder needs nothing.

        A checkpoint there is readable at any time: its new data comes first, then what refers to it, then its card;
        the files that it no longer has go last. Raises OSError where another run has begun in the bucket since.
        """
        if not self._bucket or jax.process_index() != 0:
            return
        self._require_the_last()
        stats = {path: path.stat() for path in self.local.rglob("*") if path.is_file()}
        files = {path.relative_to(self.local).as_posix(): (s.st_mtime_ns, s.st_size) for path, s in stats.items()}
        changed = [name for name, mark in files.items() if self._sent.get(name) != mark]
        changed.sort(key=lambda name: (name.endswith("/card.json"), (self.root / name).exists(), name))
        for name in changed:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_bytes((self.local / name).read_bytes())
            self._sent[name] = files[name]
        for card in changed:
            if card.endswith("/card.json"):
                self._clear(card.removesuffix("card.json"), files)

    def _require_the_last(self):
        """Raise OSError unless the last start that the bucket knows is this one."""
        if RUN not in self._sent or not (self.root / RUN).exists():
            return
        now, own = ((folder / RUN).read_text() for folder in (self.root, self.local))
        if now != own:
            start = last_start(now)
            raise OSError(
                f"another run has begun in the workdir {self.root} (process {start.get('process')} on "
                f"{start.get('host')}, {start.get('time')}); this one ends and leaves it to that."
            )

    def _clear(self, folder, files):
        """Delete what an earlier checkpoint has left in a folder of the bucket, be it of an earlier part of the run."""
        for path in list(_files(self.root / folder)):
            name = path.relative_to(self.root).as_posix()
            if name not in files:
                path.unlink()
                self._sent.pop(name, None)


def _files(folder):
    """Every file below a folder, be it of a bucket, whose paths know no `rglob`."""
    for path in folder.iterdir():
        yield from _files(path) if path.is_dir() else [path]


@contextlib.contextmanager
def naming_a_full_disk(workdir):
    """Raise OSError, saying what is saved and what to do, instead of any error that comes of a full disk."""
    try:
        yield
    except Exception as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if not full and not any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):
            raise
        if "://" in os.fspath(workdir):
            place, saved = tempfile.gettempdir(), f"what is saved is in {workdir}"
        else:
            steps = [path.name for path in pathlib.Path(workdir).glob("checkpoints/*") if path.name.isdigit()]
            place = f"the workdir {workdir}"
            saved = f"the last saved step is {max(steps, key=int)}" if steps else "no step has been saved"
        raise OSError(
            f"the disk of {place} is full; {saved}; make room and run the same command again to go on from there."
        ) from error


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
