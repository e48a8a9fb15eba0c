"""`manage.py channels_sqlite`: see what a layer does, and do to it what a person has to.

It parses and prints; the facts come from stats.py, tail.py and doctor.py.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import asdict, astuple
from functools import partial
from typing import Any, TypeVar

from channels.exceptions import ChannelFull
from channels.layers import channel_layers
from django.core.checks import ERROR, WARNING, CheckMessage, run_checks
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ... import stats
from ..._options.conf import Options
from ..._options.settings import SETTING, alias_of, configured_layers
from ..._sending.trimmer import Trimmer
from ..._storing.messages import Row
from ..._tools import doctor
from ..._tools.tail import Filter, Tail, is_taken
from ...checks import check_deployment, check_settings
from ...db_routers import APP_LABEL
from ...exceptions import ChannelsSqliteError
from ...layers import SqliteChannelLayer
from ..arguments import EXAMPLE, message_of, pause, row_count
from ..formats import as_json, counted, known, one_line, table
from ..pages import decoded, delays, described, lapse, line_of, object_of

Answer = TypeVar("Answer")


class Command(BaseCommand):
    help = "See what a channel layer does, send through it, and keep its file in order."
    requires_system_checks = ()  # doctor runs them, and shows what they say

    def add_arguments(self, parser: CommandParser) -> None:
        parser.set_defaults(run=lambda _: self.say(parser.format_help()))
        commands = parser.add_subparsers(title="commands", metavar="COMMAND")
        bare = BaseCommand()
        bare.requires_system_checks = ()
        djangos = bare.create_parser("", "", add_help=False)
        for option in djangos._actions:
            # People write Django's options after the sub-command, too. Without a default, because
            # that would replace what is before it.
            option.default = option.help = SUPPRESS

        def add(run: Callable[[Namespace], None], words: str) -> CommandParser:
            command: CommandParser = commands.add_parser(
                run.__name__, help=words, description=words, parents=[djangos]
            )
            command.set_defaults(run=run)
            command.add_argument(
                "--layer", help="The entry of CHANNEL_LAYERS; by default the first."
            )
            return command

        stats = add(self.stats, "Count messages, inboxes, groups and bytes; show the readers.")
        stats.add_argument("--json", action="store_true", help="Print JSON.")
        stats.add_argument(
            "--watch",
            nargs="?",
            type=pause,
            const=2.0,
            metavar="SECONDS",
            help="Count again every SECONDS (2), until Ctrl-C.",
        )

        tail = add(self.tail, "Show messages as they are sent, until Ctrl-C. Takes none away.")
        tail.add_argument("--json", action="store_true", help="One JSON object a line.")
        tail.add_argument("--channel", metavar="GLOB", help="Messages to these channels.")
        tail.add_argument("--group", metavar="GLOB", help="Messages to these groups.")
        tail.add_argument("--type", metavar="GLOB", help="Messages of these types.")
        tail.add_argument(
            "--last", type=row_count, default=0, metavar="N", help="Begin with the last N of all."
        )

        send = add(self.send, "Send a message to a channel, or to a group.")
        send.add_argument("channel", nargs="?", metavar="CHANNEL")
        send.add_argument("--group")
        send.add_argument("message", metavar="JSON", help=f"Such as {EXAMPLE}.")

        groups = add(self.groups, "Count the members of each group, or name those of one.")
        groups.add_argument("group", nargs="?", metavar="GROUP")
        groups.add_argument("--json", action="store_true", help="Print JSON.")

        add(self.trim, "Delete expired and long-delivered messages, and lapsed memberships.")

        flush = add(self.flush, "Delete all messages and memberships.")
        flush.add_argument("--no-input", "--noinput", action="store_true", help="Do not ask first.")

        add(self.doctor, "Check the settings, and try every watcher with a second process.")

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            options["run"](Namespace(**options))
        except (ChannelsSqliteError, ChannelFull) as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:  # how a person ends what has no end; others have not done it
            if options["run"] != self.tail and options.get("watch") is None:
                sys.exit(130)
        except BrokenPipeError:  # as of `head`, after its lines; at exit Python would complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def say(self, *lines: str) -> None:
        """Now, and not when a buffer is full: somebody is looking."""
        if lines:
            self.stdout.write(known("\n".join(lines), self.stdout))
            self.stdout.flush()

    def note(self, line: str) -> None:
        """For a person: a program that reads what is printed does not get it."""
        self.stderr.write(line, str)

    # To look

    def stats(self, options: Namespace) -> None:
        layer = layer_called(options.layer)
        started = time.monotonic()
        lines = counts(layer, as_object=options.json, indent=2 if options.watch is None else None)
        drawn = options.watch is not None and self.stdout.isatty()
        while True:
            self.stdout.write("\033[H\033[2J" * drawn, ending="")
            self.say(*lines)
            if options.watch is None:
                return
            if not (drawn or options.json):
                self.say("")
            # A fifth of the time at most: to count a million messages takes seconds.
            took = time.monotonic() - started
            time.sleep(max(options.watch - took, 4 * took))
            started = time.monotonic()
            try:
                lines = counts(layer, as_object=options.json)
            except ChannelsSqliteError as error:  # the file was moved away, perhaps
                said = str(error)
                lines = [as_json({"error": said}, indent=None) if options.json else said]

    def groups(self, options: Namespace) -> None:
        layer = layer_called(options.layer)
        if options.group is not None:
            found: list[Any] = answer_of(layer.group_channels(options.group))
            lines = [one_line(str(each)) for each in found]
        else:
            question = partial(stats.groups, now=time.time())
            groups = asyncio.run(layer.database.read_on_own_thread(question))
            found = [asdict(each) for each in groups]
            rows = [(each.name, each.members, each.inboxes, lapse(each)) for each in groups]
            lines = table(("GROUP", "members", "inboxes", "first lapses in"), rows)
        self.say(*([as_json(found)] if options.json else lines))
        if not found:
            nobody = "No group has members."
            self.note(nobody if options.group is None else f"{options.group} has no members.")

    def tail(self, options: Namespace) -> None:
        layer = layer_called(options.layer)
        wanted = Filter(options.channel, options.group, options.type)
        written = object_of if options.json else line_of
        tail = Tail(layer.database)

        def show(row: Row) -> None:
            message, problem = decoded(layer, row)
            if wanted.admits(row, message):
                self.say(written(row, message, problem))

        async def follow() -> None:
            before = await tail.last(options.last)
            self.note(f"Watching {layer.database.path} until Ctrl-C.")
            for row in before:
                show(row)
            async for row in tail:
                show(row)

        try:
            asyncio.run(follow())
        finally:
            if tail.missed:
                words = f"Not shown: {counted(tail.missed, 'message')}, deleted before that."
                self.stderr.write(words, self.style.WARNING)

    # To act

    def send(self, options: Namespace) -> None:
        message = message_of(options.message)
        if (options.channel is None) == (options.group is None):
            raise CommandError("Name a channel, or a group with --group.")
        layer = layer_called(options.layer)
        if options.group is not None:
            dropped = layer.counters.dropped
            answer_of(layer.group_send(options.group, message))
            members = asyncio.run(layer.group_count(options.group))
            self.say(f"Sent to {options.group}: {counted(members, 'member')}.")
            if missed := layer.counters.dropped - dropped:
                raise CommandError(f"It was dropped for {missed} of its inboxes, which are full.")
        else:
            answer_of(layer.send(options.channel, message))
            self.say(f"Sent to {options.channel}.")
            if not asyncio.run(is_taken(layer.database, layer.non_local_name(options.channel))):
                self.note("Nobody has taken it yet. Does any process receive on this channel?")

    def trim(self, options: Namespace) -> None:
        layer = layer_called(options.layer)
        trimmed = asyncio.run(Trimmer(layer.database, layer.options, layer.counters).trim())
        self.say(
            f"Deleted {counted(trimmed.delivered, 'delivered message')}, "
            f"{counted(trimmed.expired, 'expired one')} "
            f"and {counted(trimmed.memberships, 'membership')}. SQLite will use their room again."
            if any(astuple(trimmed))
            else "There was nothing to delete."
        )

    def flush(self, options: Namespace) -> None:
        layer = layer_called(options.layer)
        found = asyncio.run(layer.stats())
        total = found.total
        kept = total.waiting + total.delivered + total.expired
        if not (kept or total.members or options.no_input):
            self.say("There is nothing to delete.")
            return
        messages, members = counted(kept, "message"), counted(total.members, "membership")
        waiting = f", {total.waiting} of them waiting," if kept else ""
        question = (
            f"This deletes {messages}{waiting} and {members} in {found.path}. Connected "
            "consumers stay connected, but are in no group any more.\n"
            "Type 'yes' to do it: "
        )
        try:
            if not options.no_input and input(known(question, self.stdout)) != "yes":
                raise CommandError("Nothing was deleted.")
        except (EOFError, RuntimeError):  # there is no end of the input, nor any input
            words = "Nobody is here to answer; --no-input does it without asking."
            raise CommandError(words) from None
        asyncio.run(layer.flush())
        self.say("Deleted all messages and memberships.")

    # To find out what is wrong

    def doctor(self, options: Namespace) -> None:
        name = layer_name(options.layer)
        alias = alias_of(configured_layers()[name])
        found = run_checks(tags=[APP_LABEL], databases=[alias])
        details = self.styled(found) or ["The checks have nothing to say."]
        if any(each.is_serious() and not each.is_silenced() for each in found):
            is_well, verdict = False, "The settings have errors: correct them first."
        else:
            try:
                layer = layer_called(name)
                findings = asyncio.run(doctor.examine_all(layer, self.note))
            except ChannelsSqliteError as error:  # what keeps it from being opened is said once
                is_well, verdict = False, str(error)
            else:
                is_well, verdict = doctor.verdict(findings, layer.options.watcher)
                details += delays(findings)
        if later := self.styled(check_deployment(databases=[alias])):
            details += ["", "For production:", *later]
        self.say((self.style.SUCCESS if is_well else self.style.ERROR)(verdict), *details)
        if not is_well:
            sys.exit(1)

    def styled(self, found: Iterable[CheckMessage]) -> list[str]:
        """The messages of the checks, the worst first, without those that the settings silence."""
        lines = []
        for each in sorted(found, key=lambda each: -each.level):
            style = self.style.ERROR if each.level >= ERROR else self.style.WARNING
            if not each.is_silenced():
                lines.append(style(str(each)) if each.level >= WARNING else str(each))
        return lines


# The layer that is meant


def layer_name(name: str | None) -> str:
    """The entry of CHANNEL_LAYERS, which must be one of ours; the first of them for None."""
    ours = list(configured_layers())
    if not ours:
        said = [str(each) for each in check_settings()]  # one may be misspelt
        words = said or [f"Add to the settings:\n{SETTING}"]
        raise CommandError("\n".join(["No entry of CHANNEL_LAYERS is of this package.", *words]))
    if name is not None and name not in ours:
        raise CommandError(
            f"CHANNEL_LAYERS has no entry {name!r} of this package; --layer may be: "
            f"{', '.join(ours)}."
        )
    return name or ours[0]


def layer_called(name: str | None) -> SqliteChannelLayer:
    name = layer_name(name)
    Options.from_config(configured_layers()[name])  # Channels takes a list for arguments
    layer = channel_layers[name]
    assert isinstance(layer, SqliteChannelLayer)  # noqa: S101 - configured_layers() says so
    return layer


def counts(layer: SqliteChannelLayer, *, as_object: bool, indent: int | None = None) -> list[str]:
    """The lines of `stats`."""
    found, readers = asyncio.run(layer.stats()), asyncio.run(layer.readers())
    if as_object:
        everything = asdict(found) | {"readers": [asdict(each) for each in readers]}
        return [as_json(everything, indent=indent)]
    return described(found, readers, layer)


def answer_of(question: Coroutine[Any, Any, Answer]) -> Answer:
    """The answer of the layer, which refuses names and messages by TypeError."""
    try:
        return asyncio.run(question)
    except TypeError as error:
        raise CommandError(str(error)) from error
