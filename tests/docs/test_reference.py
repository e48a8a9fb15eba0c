"""The reference says what the code does."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

from django.core.management import load_command_class

from channels_sqlite import checks, exceptions
from channels_sqlite._options import conf
from channels_sqlite._storing import schema
from channels_sqlite._tools import file_checks
from channels_sqlite.models import LayerMembership, LayerMessage, LayerSequence
from tests.docs.blocks import DOCS

LEVELS = {"E": "Error", "W": "Warning", "I": "Info"}


def page(name: str) -> str:
    return (DOCS / "reference" / name).read_text(encoding="utf-8")


def sections(text: str, mark: str) -> dict[str, str]:
    """The text under each heading that is a name in code."""
    parts = re.split(rf"^{mark} `([^`]+)`$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> Iterator[list[str]]:
    """The cells of the tables, without the lines above and below their headings."""
    for line in text.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def test_every_key_of_config_is_there_with_its_default_and_what_is_allowed() -> None:
    described = sections(page("settings.md"), "###")
    assert described.keys() == {field.name for field in fields(conf.Options)}
    for field in fields(conf.Options):
        default: Any = field.default
        if default is MISSING:
            assert callable(field.default_factory)
            default = field.default_factory()
        shown = str(default) if not isinstance(default, str) else f'"{default}"'
        allowed = conf._RULES[field.name][1]
        stated = " ".join(described[field.name].split())
        assert stated.startswith(f"Default `{shown}`. Allowed: {allowed}."), field.name


def test_every_check_is_there_with_its_level() -> None:
    calls = {
        str(keyword.value.value): node.func.attr
        for module in (checks, file_checks)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        for keyword in node.keywords
        if keyword.arg == "id" and isinstance(keyword.value, ast.Constant)
    }
    assert calls
    assert {code.strip("`"): level for code, level, *_ in rows(page("checks.md"))} == calls
    assert {each: LEVELS[each.split(".")[1][0]] for each in calls} == calls


def test_every_sub_command_is_there_with_its_options() -> None:
    described = sections(page("command.md"), "##")
    parsers = sub_commands()
    assert described.keys() == parsers.keys()
    everywhere = options(
        load_command_class("channels_sqlite", "channels_sqlite").create_parser("", "")
    )
    for name, parser in parsers.items():
        said = set(re.findall(r"--[\w-]+", described[name]))
        offered = options(parser) - everywhere
        assert offered - {"--layer", "--noinput"} <= said, name
        assert said <= offered, name


def sub_commands() -> dict[str, argparse.ArgumentParser]:
    command = load_command_class("channels_sqlite", "channels_sqlite")
    (choices,) = (
        action.choices
        for action in command.create_parser("manage.py", "channels_sqlite")._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return dict(choices)


def options(parser: argparse.ArgumentParser) -> set[str]:
    return {
        option
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and option != "--help"
    }


def test_every_column_and_the_limits_of_the_views_are_there() -> None:
    described = {
        table: sorted(re.findall(r"`(\w+)`", "".join(cell for cell, *_ in rows(text))))
        for table, text in sections(page("sql.md").split("## Views")[0], "##").items()
    }
    assert described == {
        model._meta.db_table: sorted(str(field.column) for field in model._meta.concrete_fields)
        for model in (LayerMessage, LayerMembership, LayerSequence)
    }
    assert f"{schema.SQL_CAPACITY} messages and {schema.SQL_EXPIRY} seconds" in page("sql.md")


def test_every_exception_is_there() -> None:
    ours = {
        name
        for name, each in vars(exceptions).items()
        if isinstance(each, type) and each.__module__ == exceptions.__name__
    }
    described = re.findall(
        r"autoexception:: channels_sqlite\.exceptions\.(\w+)", page("exceptions.md")
    )
    assert set(described) == ours
