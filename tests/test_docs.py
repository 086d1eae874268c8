"""The pages: tables are whole, links lead somewhere, files and commands that are named exist."""

import re

import pytest
from pages import PAGES, ROOT, anchors, cells, split_page

IDS = [path.relative_to(ROOT).as_posix() for path in PAGES]
every_page = pytest.mark.parametrize("page", PAGES, ids=IDS)


def tables(page):
    """The runs of rows of a page, [[(number, row), ...], ...]."""
    runs, last = [], None
    for number, line in split_page(page)[0]:
        if line.startswith("|"):
            if last != number - 1:
                runs.append([])
            runs[-1].append((number, line))
            last = number
    return runs


def broken_rows(page):
    """The rows that do not belong to a table, or have other cells than its header."""
    wrong = []
    for (first, header), *rows in tables(page):
        if not rows or not re.fullmatch(r"\|( *:?-+:? *\|)+", rows[0][1].strip()):
            wrong.append(f"{first}: rows without a header")
            continue
        expected = len(cells(header))
        counts = [(number, len(cells(row))) for number, row in rows]
        wrong += [
            f"{number}: {count} cells, the header has {expected}" for number, count in counts if count != expected
        ]
    return wrong


@every_page
def test_every_row_of_a_table_has_the_cells_of_its_header(page):
    assert broken_rows(page) == []


def test_a_table_that_is_cut_in_two_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("| a | b |\n|---|---|\n| 1 | 2 |\n\nWords.\n| 3 | 4 |\n| 5 | 6 |\n")
    assert broken_rows(page) == ["6: rows without a header"]
    page.write_text("| a | b |\n|---|---|\n| 1 |\n| 2 \\| 3 | `4` |\n| 5 | 6 | 7 |\n")
    assert broken_rows(page) == ["3: 1 cells, the header has 2", "5: 3 cells, the header has 2"]


@every_page
def test_links_lead_to_files_and_headings_that_exist(page):
    for number, line in split_page(page)[0]:
        for target in re.findall(r"\]\(([^()\s]+)\)", line):
            if re.match(r"https?://", target):
                continue
            file, _, anchor = target.partition("#")
            path = page.parent / file if file else page
            assert path.exists(), f"line {number}: there is no {file}"
            assert not anchor or anchor in anchors(path), f"line {number}: {path.name} has no heading for #{anchor}"
