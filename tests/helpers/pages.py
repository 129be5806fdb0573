"""The pages that users read, taken apart: code blocks with the marks before them, headings, links."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from helpers.places import README, TESTS

ROOT = TESTS.parent
DOCUMENTATION = ROOT / "documentation"
PAGES = [README, *sorted(DOCUMENTATION.glob("*.md"))]
RUN = ("bash", "python")  # languages whose blocks are run; the others are shown
MARK = re.compile(r"<!-- not run: (.*) -->")
# Between these examples/accuracy_study writes its tables.
OF_THE_STUDY = re.compile(r"<!-- (end of )?study: \w+( in short)? -->")


@dataclass(frozen=True)
class Block:
    """A fenced block, with why it is not run if a mark stands before it."""

    page: Path
    line: int
    language: str
    code: str
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


@cache
def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def blocks(page: Path) -> Iterator[Block]:
    before = None
    for token in tokens(page):
        if token.type == "fence":
            mark = MARK.fullmatch(before.content.strip()) if before and before.type == "html_block" else None
            yield Block(page, token.map[0] + 1, token.info, token.content, mark and mark[1])
        before = token


def unmarked_code(page: Path) -> list[int]:
    """Lines of indented code, which has no language, and of comments that mark no block and no table."""
    all_tokens = tokens(page)
    return [
        token.map[0] + 1
        for token, after in zip(all_tokens, [*all_tokens[1:], None], strict=True)
        if token.type == "code_block"
        or (
            token.type == "html_block"
            and not OF_THE_STUDY.fullmatch(token.content.strip())
            and not (MARK.fullmatch(token.content.strip()) and after and after.type == "fence")
        )
    ]


def anchors(page: Path) -> set[str]:
    """What GitHub and mkdocs name the page's headings."""
    all_tokens = tokens(page)
    texts = [
        "".join(child.content for child in inline.children)
        for heading, inline in itertools.pairwise(all_tokens)
        if heading.type == "heading_open"
    ]
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


def links(page: Path) -> Iterator[str]:
    """Targets of links and pictures."""
    for token in tokens(page):
        for child in token.children or []:
            if child.type == "link_open":
                yield str(child.attrs["href"])
            elif child.type == "image":
                yield str(child.attrs["src"])
