"""README and documentation: links, marks, lengths, and that the commands which are not run are at least understood."""

import argparse
import re
import shlex
from importlib.metadata import entry_points
from unittest import mock

import pytest
from helpers.pages import DOCUMENTATION, PAGES, README, ROOT, RUN, anchors, blocks, links, tokens, unmarked_code

from nnunetv2_dsvm.cli.main import SUBCOMMANDS

IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
OF_PAGE = pytest.mark.parametrize("page", PAGES, ids=IDS)
COMMANDS = {entry.name: entry for entry in entry_points(group="console_scripts") if entry.name.startswith("nnUNetv2_")}


@OF_PAGE
def test_links_lead_somewhere(page):
    broken = []
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            broken.append(link)
        # The site and a package's page on an index have the documentation's files only.
        elif page != README and not target.is_relative_to(DOCUMENTATION):
            broken.append(f"{link} leaves documentation/: name the file as code")
    assert not broken


@OF_PAGE
def test_code_has_a_language_and_marks_have_a_reason(page):
    assert not unmarked_code(page), "fence code, ```bash, ```python or ```text; <!-- not run: reason --> before a block"
    for block in blocks(page):
        assert block.language in (*RUN, "text", "json"), block.place
        assert block.not_run is None or (block.language in RUN and len(block.not_run.split()) >= 3), block.place


class Understood(Exception):
    """Raised in the place of what a command does after it has read its arguments."""


def understood(words: list[str]) -> None:
    """Raises SystemExit where a command of nnU-Net's or ours does not know a subcommand or an option."""
    parse, depth = argparse.ArgumentParser.parse_known_args, 0  # behind parse_args too, and called for a subcommand's

    def parse_and_stop(self, *arguments, **options):
        nonlocal depth
        depth += 1
        parsed, unknown = parse(self, *arguments, **options)
        depth -= 1
        if depth:
            return parsed, unknown
        if unknown:
            self.error(f"unrecognized arguments: {unknown}")
        raise Understood

    with (
        mock.patch("sys.argv", words),
        mock.patch.object(argparse.ArgumentParser, "parse_known_args", parse_and_stop),
        pytest.raises(Understood),
    ):
        COMMANDS[words[0]].load()()


def nnunet_commands(code: str) -> list[list[str]]:
    """The calls of nnU-Net's commands and ours in a shell's block, each in words, without variables before it."""
    lines = re.sub(r"\\\n", " ", code).splitlines()
    parts = [part for line in lines for part in re.split(r"&&|\|\||[;&|]", line.split(" #")[0])]
    found = []
    for part in parts:
        words = shlex.split(part)
        starts = [i for i, word in enumerate(words) if word in COMMANDS]
        if starts:
            found.append(words[starts[-1] :])
    return found


@OF_PAGE
def test_commands_that_are_not_run_are_understood(page):
    for block in blocks(page):
        if block.not_run and block.language == "bash":
            for words in nnunet_commands(block.code):
                understood(words)
        elif block.not_run:
            compile(block.code, block.place, "exec")


@pytest.mark.parametrize(
    "command", ["nnUNetv2_dsvm quickstrat", "nnUNetv2_dsvm report -d 27 --out x", "nnUNetv2_train 1"]
)
def test_what_is_not_understood(command):
    with pytest.raises(SystemExit):
        understood(command.split())


@OF_PAGE
def test_commands_in_the_text_are_understood(page):
    """Those in a line of text, where nothing is left out of them."""
    for token in tokens(page):
        for child in token.children or []:
            words = shlex.split(child.content) if child.type == "code_inline" and "'" not in child.content else []
            while words and re.fullmatch(r"\w+=\w*", words[0]):
                words = words[1:]
            if not words or words[0] not in COMMANDS or "…" in child.content:
                continue
            if any(word.startswith("-") for word in words):
                understood(words)
            elif words[0] == "nnUNetv2_dsvm" and len(words) == 2:
                assert words[1] in SUBCOMMANDS


def test_the_front_page_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 140


def test_the_list_of_pages_names_every_page():
    listed = {link.partition("#")[0] for link in links(DOCUMENTATION / "README.md")}
    assert {page.name for page in DOCUMENTATION.glob("*.md")} - {"README.md"} == listed


def test_pictures_are_small():
    sizes = {path.name: path.stat().st_size for path in DOCUMENTATION.rglob("*.png")}
    assert sizes and max(sizes.values()) < 150_000
