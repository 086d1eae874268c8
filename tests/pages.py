"""The Markdown pages of the repository, as far as the tests look at them: blocks, text, headings, tables."""

import dataclasses
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text and the line in which the text begins."""

    language: str
    text: str
    line: int


def split_page(path):
    """(lines of text [(number, line), ...], fenced blocks) of a page; ValueError for a fence that is not closed."""
    text, blocks, fence = [], [], None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        mark = re.match(r"\s*```(\w*)\s*$", line)
        if fence is None and mark:
            fence = (mark[1], number + 1, [])
        elif fence is None:
            text.append((number, line))
        elif mark and not mark[1]:
            blocks.append(Block(fence[0], "\n".join(fence[2]) + "\n", fence[1]))
            fence = None
        else:
            fence[2].append(line)
    if fence is not None:
        raise ValueError(f"the block that begins in line {fence[1]} of {path} has no end.")
    return text, blocks


def anchors(path):
    """The anchors that GitHub gives to the headings of a page."""
    found = []
    for _, line in split_page(path)[0]:
        heading = re.match(r"#{1,6} (.+)", line)
        if heading:
            words = re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-")
            found.append(f"{words}-{found.count(words)}" if words in found else words)
    return found


def cells(row):
    """The cells of a table's row "| a | b |"; a pipe inside of a cell is written as a backslash and a pipe."""
    return re.split(r"(?<!\\)\|", row.strip())[1:-1]


def code_spans(path):
    """[(number, text between backticks)] of a page, its fenced blocks apart."""
    return [(number, span) for number, line in split_page(path)[0] for span in re.findall(r"`([^`]+)`", line)]


def command_lines(path):
    """[(number, line)] of the shell blocks of a page: continued lines as one, comments and empty lines left out."""
    found = []
    for block in split_page(path)[1]:
        if block.language != "sh":
            continue
        start, words = None, ""
        for number, line in enumerate(block.text.splitlines(), block.line):
            start = number if start is None else start
            words += re.sub(r"(^|\s)#\s.*$", "", line)
            if words.endswith("\\"):
                words = words[:-1]
                continue
            if words.strip():
                found.append((start, words.strip()))
            start, words = None, ""
    return found
