"""The pages: tables are whole, links lead somewhere, files and commands that are named exist."""

import argparse
import importlib
import re
import shlex

import pytest
from pages import PAGES, ROOT, anchors, cells, code_spans, command_lines, split_page

from unireplknet_jax.cli.parser import COMMANDS, parse
from unireplknet_jax.cli.train import load_config

IDS = [path.relative_to(ROOT).as_posix() for path in PAGES]
every_page = pytest.mark.parametrize("page", PAGES, ids=IDS)
FOLDERS = ("ops", "nn", "models", "tasks", "train", "benchmark", "serve", "cli", "data", "unireplknet_jax")
FOLDERS += ("configs", "tests", "launch", "docs", r"\.ci", r"\.github")


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


@every_page
def test_code_spans_end_in_the_line_they_begin_in(page):
    """The other tests read them line by line."""
    assert [number for number, line in split_page(page)[0] if line.count("`") % 2] == []


def missing_names(page):
    """What code spans name that does not exist: a path, or after it ": NAME" what the file does not define."""
    missing = []
    for number, span in code_spans(page):
        named = re.fullmatch(rf"((?:{'|'.join(FOLDERS)})/[\w./*<>-]*)(?:: (\w+))?", span)
        if not named:
            continue
        pattern = named[1].replace("<name>", "*").rstrip("/")
        found = [path for root in (ROOT, ROOT / "unireplknet_jax") for path in root.glob(pattern)]
        if not found or (named[2] and not re.search(rf"\b(def|class) {named[2]}\b", found[0].read_text())):
            missing.append(f"{number}: {span}")
    return missing


# CHANGELOG.md names what there was at its time.
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    assert missing_names(page) == []


def test_a_file_or_a_name_that_is_missing_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("`ops/nothing.py`, `ops/fold.py`, `ops/fold.py: jax`\n`train/` and `ops/depthwise_*.py`, `a/b`\n")
    assert missing_names(page) == ["1: ops/nothing.py", "1: ops/fold.py: jax"]


def whole_commands(page):
    """[(number, words of a command of this package)] of the shell blocks, those that a launcher starts included."""
    for number, line in command_lines(page):
        words = shlex.split(line)
        for before, (i, word) in zip(words, enumerate(words[1:], 1), strict=False):
            launched = word in COMMANDS and (before == "--" or before.endswith(".sbatch"))
            if (before == "unireplknet" or launched) and "..." not in words:
                yield number, words[i:]
                break


@every_page
def test_commands_of_shell_blocks_can_be_parsed(page, monkeypatch):
    """With their flags; recipes are read, and have the fields that are overridden."""
    monkeypatch.chdir(ROOT)
    for number, words in whole_commands(page):
        try:
            args = parse(words)
        except SystemExit:
            pytest.fail(f"line {number}: unireplknet {shlex.join(words)}")
        if "config" in args:
            load_config(args.config, args.overrides)


def flags_of(command):
    """All flags of a command and of what is below it."""
    parsers, flags = [argparse.ArgumentParser()], set()
    importlib.import_module(f"unireplknet_jax.cli.{command.replace('-', '_')}").add_arguments(parsers[0])
    while parsers:
        for action in parsers.pop()._actions:
            flags.update(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
    return flags


def unknown_flags(page):
    """The flags in code spans that the command before them does not know."""
    for number, span in code_spans(page):
        command, *words = span.removeprefix("unireplknet ").split() or [""]
        if command not in COMMANDS:
            if span.startswith("unireplknet ") and command != "COMMAND":
                yield f"{number}: {span}"
            continue
        flags = {word.strip("[]").partition("=")[0] for word in words if word.lstrip("[").startswith("--")}
        if not {flag for flag in flags if not flag.startswith("--config.")} <= flags_of(command):
            yield f"{number}: {span}"


@every_page
def test_commands_within_text_exist_and_have_the_flags_they_are_named_with(page):
    assert list(unknown_flags(page)) == []


def test_a_command_or_a_flag_that_is_unknown_is_found(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        "`predict --tops 3`, `predict A [--top 3]`\n`unireplknet nothing`, `benchmark block --static v5e`\n"
    )
    assert list(unknown_flags(page)) == ["1: predict --tops 3", "2: unireplknet nothing"]
    command = "unireplknet train --config configs/finetune.py:a --config.nothing=1 --workdir x  # words"
    page.write_text(f"```sh\n{command}\n```\n")
    with pytest.raises(argparse.ArgumentError, match="has no field nothing"):
        test_commands_of_shell_blocks_can_be_parsed(page, monkeypatch)
