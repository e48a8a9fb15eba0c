"""The command line: `python -m stress --list` explains it."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

try:
    from rich.console import Console
    from rich.table import Table

    from stress import compare, figures, results, screen, tables
    from stress.layers import LAYERS
    from stress.plan import Plan
    from stress.runner import Runner, failed
    from stress.scenarios import SCENARIOS
    from stress.servers import KINDS
    from stress.verdict import Verdict

    missing = None if find_spec("matplotlib") else "matplotlib"
except ModuleNotFoundError as error:
    missing = error.name
if missing:
    sys.exit(f"{missing} is not installed; `nox -s stress` installs all that this needs.")

USUAL = ("sqlite", "redis", "redis-pubsub")
PAGE = 160  # columns of the tables where no terminal says how many it has
FIGURES = ("sqlite:inotify", "sqlite:watchfiles", "redis", "redis-pubsub")


class Parser(argparse.ArgumentParser):
    """A parser whose errors say in one line what is wrong and what is allowed."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def positive(kind: type[Any]) -> Any:
    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} above 0")
        return value

    return convert


def run_parser() -> Parser:
    parser = Parser(
        prog="python -m stress",
        description="Measures channels-sqlite beside the layers that one would use instead, and "
        "keeps a ledger of every message.",
        epilog="python -m stress compare OLD.json NEW.json compares two runs. "
        "python -m stress tables RUN.json writes the documents' tables.",
    )
    parser.add_argument("scenarios", metavar="SCENARIO", nargs="*", help="see --list")
    parser.add_argument("--layer", metavar="NAME", nargs="+", action="extend", help="see --list")
    parser.add_argument("--profile", choices=("quick", "figures"), help="how much to measure")
    whole, number = positive(int), positive(float)
    parser.add_argument("--processes", metavar="N", type=whole)
    parser.add_argument("--seconds", metavar="S", type=number, help="of each measurement")
    parser.add_argument("--members", metavar="M", type=whole, help="of a group; idle consumers")
    parser.add_argument("--rate", metavar="R", type=number, help="messages a second of a sender")
    parser.add_argument("--size", metavar="BYTES", type=whole, help="of a message (130)")
    parser.add_argument("--rounds", metavar="K", type=whole)
    parser.add_argument("--sockets", metavar="N", type=whole, help="of websockets (200)")
    parser.add_argument(
        "--server", metavar="NAME", nargs="+", action="extend", help="of websockets; see --list"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results there")
    parser.add_argument("--report", metavar="FILE.html", type=Path, help="write a page there")
    parser.add_argument("--list", action="store_true", help="explain scenarios and layers")
    return parser


def known(parser: Parser, what: str, names: Sequence[str], allowed: Sequence[str]) -> None:
    for name in names:
        if name not in allowed:
            parser.error(f"no {what} {name!r}; there are: {', '.join(allowed)}")


def show_list(console: Console) -> None:
    for title, explained in (
        ("scenarios", {name: scenario.says for name, scenario in SCENARIOS.items()}),
        ("layers", {name: layer.missing() or layer.says for name, layer in LAYERS.items()}),
        ("servers", {name: kind.missing() or kind.says for name, kind in KINDS.items()}),
    ):
        table = Table(title=title, box=None, show_header=False, title_justify="left")
        for name, says in explained.items():
            table.add_row(f"[bold]{name}[/]", says)
        console.print(table)


async def go(runner: Runner) -> None:
    """Run it to its end. Ctrl-C and SIGTERM, even twice, end it in good order."""
    work = asyncio.create_task(runner.go())
    asked = False

    def end() -> None:
        nonlocal asked
        if not asked:
            asked = True
            work.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end)
    await work


def run(arguments: Sequence[str]) -> int:
    console = wide(Console())
    parser = run_parser()
    options = parser.parse_args(arguments)
    if options.list:
        show_list(console)
        return 0
    known(parser, "scenario", options.scenarios, list(SCENARIOS))
    known(parser, "layer", options.layer or (), list(LAYERS))
    known(parser, "server", options.server or (), list(KINDS))
    if not options.scenarios and not options.profile:
        parser.error(f"name a SCENARIO or a --profile; there are: {', '.join(SCENARIOS)}")
    for path in filter(None, (options.json, options.report)):
        if not path.parent.is_dir() or path.is_dir():
            parser.error(f"cannot write {path}: name a file in a directory that exists")
    chosen = options.layer or (FIGURES if options.profile == "figures" else USUAL)
    names = ("processes", "seconds", "members", "rate", "size", "rounds", "sockets")
    plan = Plan(
        profile=options.profile or "normal",
        servers=list(dict.fromkeys(options.server)) if options.server else None,
        **{name: getattr(options, name) for name in names},
    )
    with screen.Screen(console) as watcher:
        runner = Runner(
            plan,
            [SCENARIOS[name] for name in dict.fromkeys(options.scenarios or SCENARIOS)],
            [LAYERS[name] for name in dict.fromkeys(chosen)],
            shlex.join(["python", "-m", "stress", *arguments]),
            watcher,
            results.Keeper(options.json).keep if options.json else None,
        )
        try:
            asyncio.run(go(runner))
        finally:
            # Save the results before anything is drawn, however the run ended.
            if options.json:
                results.save(runner.run, options.json)
    if options.report:
        from stress import report  # here, because importing matplotlib takes most of a second

        report.write(runner.run, options.report)
    return conclude(console, runner.run)


def conclude(console: Console, run: results.Run) -> int:
    """Print the results, with our own verdict last. Return the exit status."""
    screen.report(console, run)
    if run.interrupted:
        return 130
    why = failed(run)
    words, colour = (why, "red") if why else (well(run), "green")
    console.print(words, style=colour, highlight=False, markup=False, soft_wrap=True)
    return int(bool(why))


def well(run: results.Run) -> str:
    """Return the summary of a run without a failure of ours, whatever the rivals did."""
    ours = [each.ledger for each in run.measurements if results.is_ours(each.layer)]
    if not ours:
        return "nothing was measured on channels-sqlite"
    count = f"{len(ours)} measurement{'s' if len(ours) > 1 else ''}"
    return f"well: channels-sqlite in {count}: {sum(ours, Verdict())}"


def compare_files(arguments: Sequence[str]) -> int:
    parser = Parser(prog="python -m stress compare", description="Compares two runs.")
    parser.add_argument("files", metavar="FILE.json", type=Path, nargs=2, help="old and new")
    paths = parser.parse_args(arguments).files
    try:
        compare.compare(wide(Console()), paths)
    except (OSError, results.UnknownFormatError) as error:
        parser.error(str(error))
    return 0


def write_tables(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="python -m stress tables",
        description="Writes the tables of figures in the documents, from stress/results/. Given "
        "runs of one commit, writes that first. If several have a case, the last one counts.",
    )
    parser.add_argument("files", metavar="RUN.json", type=Path, nargs="*", help="kept by --json")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if one differs")
    options = parser.parse_args(arguments)
    try:
        runs = [results.load(path) for path in options.files]
        found = figures.summary(runs) if runs else figures.load()
    except (OSError, results.UnknownFormatError, figures.DifferentRunsError) as error:
        parser.error(str(error))
    if runs and not options.check:
        figures.save(found)
    paths = tables.outdated(found, mend=not options.check)
    for path in paths:
        print(f"{'differs' if options.check else 'written'}: {path}")
    return int(options.check and bool(paths))


def wide(console: Console) -> Console:
    """Return a console that is wide enough for the tables, if no terminal says its width."""
    return console if console.is_terminal else Console(width=PAGE)


def main() -> int:
    arguments = sys.argv[1:]
    if arguments[:1] == ["compare"]:
        return compare_files(arguments[1:])
    if arguments[:1] == ["tables"]:
        return write_tables(arguments[1:])
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
