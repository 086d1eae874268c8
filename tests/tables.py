"""Times and text files for tests of series."""

import numpy as np

HOUR = np.timedelta64(3600, "s")


def hours(count, start="2024-01-01"):
    return np.datetime64(start, "s") + np.arange(count) * HOUR


def write(path, text):
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return path
