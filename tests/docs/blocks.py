"""The code blocks of a page of the documentation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from markdown_it import MarkdownIt

DOCS = Path(__file__).resolve().parents[2] / "docs"
TUTORIAL = "tutorial.md"

NO_CODE = {"{toctree}", "{include}", "{eval-rst}"}
"""Directives that hold no code. Directives of text are written with colons, `:::{note}`, so that
the code inside them is found."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, and the options of `{code-block}`."""

    page: str
    line: int
    language: str
    options: dict[str, str]
    code: str

    @property
    def kind(self) -> str:
        """The way to run it, by its class, or by its language if it has none."""
        return self.options.get("class") or ("file" if self.file else self.language)

    @property
    def file(self) -> str | None:
        """The file that it is the content of, by its caption."""
        return self.options.get("caption")

    def __str__(self) -> str:
        return f"docs/{self.page}, line {self.line}: {self.kind}\n{self.code}"


def pages() -> list[str]:
    """All pages, relative to docs/."""
    return sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def blocks(page: str, after: str = "") -> Iterator[Block]:
    """The blocks of a page, in their order, or those that come `after` some words of it; ValueError
    for what nobody would run.
    """
    text = (DOCS / page).read_text(encoding="utf-8")
    before = text[: text.index(after)].count("\n")
    for token in MarkdownIt().parse(text):
        line = token.map[0] + 1 if token.map else 0
        if line < before:
            continue
        if token.type == "code_block":
            raise ValueError(f"docs/{page}, line {line}: fence this block, and name its language")
        if token.type != "fence":
            continue
        first, _, argument = token.info.strip().partition(" ")
        if first in NO_CODE:
            continue
        if first == "{code-block}":
            options, code = options_and_code(token.content)
            yield Block(page, line, argument, options, code)
        elif first.startswith("{") or not first or argument:
            raise ValueError(f"docs/{page}, line {line}: nobody runs a block of {token.info!r}")
        else:
            yield Block(page, line, first, {}, token.content)


def options_and_code(content: str) -> tuple[dict[str, str], str]:
    """The `:name: value` lines at the top of a directive, and what follows them."""
    options = {}
    lines = content.splitlines(keepends=True)
    while lines and lines[0].startswith(":"):
        _, name, value = lines.pop(0).split(":", 2)
        options[name] = value.strip()
    return options, "".join(lines).lstrip("\n")


def lightened(block: Block) -> Block:
    """Without the environment, which takes seconds to make, and without daphne's `runserver`, whose
    imports are half of what each command costs. The tutorial's own test has both.
    """
    lines = block.code.splitlines(keepends=True)
    code = "".join(line for line in lines if ".venv" not in line and "pip" not in line)
    return replace(block, code=code.replace('"daphne", ', ""))
