"""The tables, as Django and as SQL sees them."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.apps import apps
from django.db import connections

from channels_sqlite._storing import schema
from channels_sqlite._storing.private import opened_by
from channels_sqlite.apps import prepare
from channels_sqlite.models import LayerMessage, LayerSequence

pytestmark = pytest.mark.django_db(databases=["default", "channels"])


def send(inbox: str = "worker", **fields: Any) -> int:
    """A message in the table; its id."""
    now = time.time()
    fields = {"channel": inbox, "body": b"", "created_at": now, "expires_at": now + 60} | fields
    return int(LayerMessage.objects.create(inbox=inbox, **fields).pk)


def test_the_names_are_not_those_that_projects_give_their_own_models() -> None:
    """`manage.py shell` imports all models by their bare names: one would hide the other."""
    names = {model.__name__ for model in apps.get_app_config("channels_sqlite").get_models()}
    ours = {"LayerMessage", "LayerMembership", "LayerSequence", "ChannelSend", "GroupSend"}
    assert names == ours


def test_the_sequence_rises_even_where_it_is_ahead_of_the_ids() -> None:
    other, newest = send("another"), send()
    assert LayerSequence.objects.get(inbox="another").seq == other < newest
    assert LayerSequence.objects.get(inbox="worker").seq == newest
    LayerSequence.objects.filter(inbox="worker").update(seq=newest + 10)
    send()
    assert str(LayerSequence.objects.get(inbox="worker")) == f"worker at {newest + 11}"


def test_the_first_message_after_a_flush_begins_another_epoch() -> None:
    epochs = set()
    for _ in range(2):
        send()
        epochs.add(LayerSequence.objects.get(inbox=schema.EPOCH).seq)
        LayerSequence.objects.all().delete()
    assert len(epochs) == 2


def test_times_are_unix_seconds_that_sql_reads() -> None:
    send(created_at=1_000_000_000.25)
    with connections["channels"].cursor() as cursor:
        cursor.execute(f"select datetime(created_at, 'unixepoch') from {schema.MESSAGE}")
        assert cursor.fetchall() == [("2001-09-09 01:46:40",)]


def test_a_connection_to_another_backend_is_left_alone() -> None:
    """A project that uses another layer may call a PostgreSQL database "channels"."""
    attributes = {"alias": "channels", "vendor": "postgresql", "connection": object()}
    other: Any = type("Connection", (), attributes)()
    prepare(connection=other)  # it would set an attribute there
    assert other not in opened_by  # those that a fork closes
