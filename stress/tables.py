"""The tables of figures in the documents, written from one file: `python -m stress tables`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. lines.txt has its lines.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stress import figures, screen
from stress.layers import LAYERS
from stress.results import Row

ROOT = Path(__file__).parent.parent
PLACES = ("*.md", "docs/*.md", "docs/*/*.md", "stress/*.md", "example/*.md")
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
OURS, RIVALS = "sqlite:inotify", ("redis", "redis-pubsub")
DESIGN, EVERYTHING = "design", "everything"  # all lines; all figures, with their ranges
SOFTWARE = {"python": "Python", "sqlite": "SQLite", "redis-server": "", "channels-redis": ""}
WIDTH = 120


@dataclass(frozen=True)
class Line:
    says: str
    scenario: str
    case: str
    figure: str
    ours: str
    tables: tuple[str, ...]
    absent: str  # the text for a rival that has no such figure


def lines(text: str) -> Iterator[Line]:
    """The lines of lines.txt, which explains itself."""
    scenario = case = ours = ""
    for line in text.splitlines():
        if line.startswith(" "):
            figure, _, words = line.strip().partition(" = ")
            says, names, absent = [*words.split(" | "), "", ""][:3]
            yield Line(says, scenario, case, figure, ours, tuple(names.split()), absent or "-")
        elif line and not line.startswith("#"):
            scenario, _, rest = line.partition(": ")
            case, _, watcher = rest.partition(": sqlite:")
            ours = f"sqlite:{watcher}" if watcher else OURS


LINES = tuple(lines(Path(__file__).with_name("lines.txt").read_text(encoding="utf-8")))


def row_of(rows: Iterable[Row], line: Line) -> Row | None:
    wanted = (line.scenario, line.case, line.figure)
    return next((row for row in rows if (row.scenario, row.case, row.figure) == wanted), None)


def ratio(row: Row, ours: str, rival: str) -> str:
    """Ours / theirs; bold where ours is behind in every round."""
    if (found := row.ratios.get(ours, {}).get(rival)) is None:
        return "-"
    said = screen.number(found.median)
    return f"**{said}**" if screen.ahead(found, row.better) == "red" else said


def cells(line: Line, rows: Sequence[Row]) -> list[str]:
    row = row_of(rows, line)
    if row is None:
        return [line.says, *["not measured"] * 3, "-"]
    unit = "" if row.unit == "x" else row.unit
    rivalled = any(rival in row.layers for rival in RIVALS)
    values = (
        screen.number(row.layers[name].median, unit)
        if name in row.layers
        else line.absent * rivalled or "-"
        for name in (line.ours, *RIVALS)
    )
    ratios = " / ".join(ratio(row, line.ours, rival) for rival in RIVALS)
    return [line.says, *values, "-" if ratios == "- / -" else ratios]


def table(name: str, rows: Sequence[Row]) -> Iterator[list[str]]:
    """The heading of a table, and its lines; none for a case that was not measured."""
    if name != EVERYTHING:
        yield ["", *(LAYERS[layer].title for layer in (OURS, *RIVALS)), "ours / theirs"]
        measured = {(row.scenario, row.case) for row in rows}
        for line in LINES:
            if name in (DESIGN, *line.tables) and (line.scenario, line.case) in measured:
                yield cells(line, rows)
        return
    used = [name for name in LAYERS if any(name in row.layers for row in rows)]
    yield ["", *(LAYERS[layer].title for layer in used), "ours / theirs"]
    for row in rows:
        ratios = " / ".join(ratio(row, OURS, rival) for rival in RIVALS)
        yield [
            f"{row.scenario}: {row.case}: {row.figure} {row.unit.removesuffix('x')}".strip(),
            *(screen.spread(row.layers[n]) if n in row.layers else "-" for n in used),
            "-" if ratios == "- / -" else ratios,
        ]


def caption(found: Mapping[str, Any]) -> str:
    """The place and time of the measurement, and how to read the table."""
    machine, versions = found["machine"], found["versions"]
    few, *_, many = [*sorted({row["rounds"] for row in found["rows"]})] * 2
    rounds = "one round" if many == 1 else f"{f'{few} to ' * (few != many)}{many} rounds"
    commands = " and ".join(f"`{run['command']}`" for run in found["runs"])
    commit = found["commit"].replace("+", " with changes")
    software = ", ".join(
        f"{title or name} {versions[name]}" for name, title in SOFTWARE.items() if name in versions
    )
    said = (
        f"{found['date']}, commit {commit}: medians of {rounds} of {commands}. "
        f"{machine['cores']} cores of {machine['processor']}, {machine['system']}, "
        f"{machine['filesystem']}, load {found['runs'][0]['load']} at the beginning, {software}. "
        "Redis pub/sub is channels_redis' other layer. The last column is ours / channels_redis "
        "and ours / Redis pub/sub: medians of the rounds, in **bold** where ours is behind in each."
    )
    return textwrap.fill(said, WIDTH, break_long_words=False, break_on_hyphens=False)


def markdown(name: str, found: Mapping[str, Any]) -> str:
    heading, *rest = table(name, figures.rows(found))
    rule = ["---", *("---:" for _ in heading[1:])]
    written = "\n".join(f"| {' | '.join(each)} |" for each in (heading, rule, *rest))
    return f"\n{caption(found)}\n\n{written}\n\n"


def documents(root: Path) -> Iterator[tuple[Path, str]]:
    """The documents that have tables, and their text."""
    for pattern in PLACES:
        for path in sorted(root.glob(pattern)):
            text = path.read_text(encoding="utf-8")
            if MARKED.search(text):
                yield path, text


def outdated(found: Mapping[str, Any], root: Path = ROOT, *, mend: bool = False) -> list[Path]:
    """The documents whose tables differ; with `mend`, write them."""
    paths = []
    for path, text in documents(root):
        new = MARKED.sub(lambda m: f"{m[1]}{markdown(m[2], found)}{m[3]}", text)
        if new != text:
            paths.append(path)
            if mend:
                path.write_text(new, encoding="utf-8")
    return paths
