"""Which classes an evaluation took for which: numbers of each class, a table and a picture of all pairs."""

import csv
from typing import NamedTuple

import numpy as np

from unireplknet_jax.data.files import whole_file

_MOST_NAMED = 30  # classes whose names and numbers are legible in a picture
_MOST_CELLS = 1000  # on a side of the picture, each of which is a pixel or more


class ClassOutcome(NamedTuple):
    """How the examples of one class, or its pixels, fared.

    accuracy: percent; mistaken_for: the class most often said instead.
    """

    label: str
    examples: int
    accuracy: float
    mistaken_for: str | None
    mistakes: int  # how often that was


class Confusion:
    """Of what `evaluate` gives as outcomes.

    pairs: (n, 2) of [class, predicted class], -1 for none, each once, or (n, 3) with how often it was so. labels: of
    the classes.
    """

    def __init__(self, pairs, labels):
        self.labels = tuple(labels)
        pairs = np.asarray(pairs, np.int64)
        if pairs.size == 0 or pairs.shape[1] == 2:
            pairs = np.insert(pairs.reshape(-1, 2), 2, 1, axis=1)
        self._pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        self._starts = np.searchsorted(self._pairs[:, 0], np.arange(len(self.labels) + 1))

    def row(self, number):
        """(classes,): how often the examples of a class were taken for each; one row of the matrix at a time."""
        return self._binned_row(number, np.arange(len(self.labels)))

    def _of(self, number):
        return self._pairs[self._starts[number] : self._starts[number + 1]]

    def _binned_row(self, number, cell):
        """(cells,): how often the examples of a class were taken for the classes of each cell."""
        _, said, times = self._of(number).T
        counts = np.zeros(cell[-1] + 1, np.int64)
        np.add.at(counts, cell[said[said >= 0]], times[said >= 0])
        return counts

    def classes(self):
        """The `ClassOutcome` of every class of which there are examples, in the order of the classes."""
        found = []
        for number, label in enumerate(self.labels):
            if examples := int(self._of(number)[:, 2].sum()):
                row = self.row(number)
                hits, row[number] = row[number], 0
                other = int(np.argmax(row))
                mistaken_for = self.labels[other] if row[other] else None
                found.append(ClassOutcome(label, examples, 100 * float(hits) / examples, mistaken_for, int(row[other])))
        return found

    def write_csv(self, path):
        """The matrix of counts: a row for each class, a column for each class that was predicted."""
        with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["class", *self.labels])
            writer.writerows([label, *self.row(number)] for number, label in enumerate(self.labels))

    def binned(self, most):
        """(cells, cells) counts; where there are more than `most` classes, neighbours share one of so many cells."""
        count = len(self.labels)
        cells = min(count, most)
        cell = np.arange(count) * cells // count
        counts = np.zeros((cells, cells))
        for number in range(count):
            counts[cell[number]] += self._binned_row(number, cell)
        return counts

    def draw(self, path):
        """The matrix as a picture: of each class, from top to bottom, the share that was taken for which.

        Names and counts stand in it where they are legible; of very many classes, neighbours share a pixel.
        """
        from matplotlib.colors import PowerNorm
        from matplotlib.figure import Figure

        count, counts = len(self.labels), self.binned(_MOST_CELLS)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        side = min(max(4.5, 0.45 * count), 13)
        figure = Figure(figsize=(side + 1.5, side), dpi=100, layout="constrained")
        axes, fontsize = figure.subplots(), 10 if count <= _MOST_NAMED else 16
        # Shares as small as a hundredth are seen, and the ticks are the numbers of classes.
        norm, ends = PowerNorm(0.5, vmin=0, vmax=1), (-0.5, count - 0.5)
        image = axes.imshow(shares, cmap="magma", norm=norm, interpolation="nearest", extent=(*ends, *ends[::-1]))
        axes.spines[:].set_visible(False)  # they would hide the cells at the edge
        axes.set_xlabel("predicted class", fontsize=fontsize)
        axes.set_ylabel("class", fontsize=fontsize)
        bar = figure.colorbar(image, ax=axes, shrink=0.8)
        bar.set_label("share of the class", fontsize=fontsize)
        for each in (axes, bar.ax):
            each.tick_params(labelsize=fontsize)
        if count <= _MOST_NAMED:
            names = [label if len(label) <= 24 else f"{label[:23]}…" for label in self.labels]
            axes.set_xticks(range(count), names, rotation=90)
            axes.set_yticks(range(count), names)
            for (true, said), number in np.ndenumerate(counts):
                if number:
                    colour = "black" if shares[true, said] > 0.4 else "white"
                    axes.text(said, true, _short(number), ha="center", va="center", color=colour, fontsize=8)
        with whole_file(path) as part:
            figure.savefig(part)


def _short(number):
    """A count in so many letters as a cell of the picture has room for: 99999, 123k, 4.57M."""
    from matplotlib.ticker import EngFormatter

    text = f"{number:.0f}"
    return text if len(text) <= 5 else EngFormatter(sep="")(float(f"{number:.3g}"))
