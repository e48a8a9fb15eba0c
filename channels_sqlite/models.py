"""The tables as Django sees them: for the admin, and for whoever wants to look.

The layer itself reads and writes them with SQL of its own (`_storing/sql.py`), and the migration
makes them from SQL too (`_storing/schema.py`), with indexes and constraints: the columns here have
to be the same. All times are unix seconds in REAL columns: `time.time()` writes them, and
`datetime(created_at, 'unixepoch')` reads them in any SQL shell.

The names begin with what they are of, because `manage.py shell` imports every model by its bare
name: a project's own `Message` or `GroupMembership` must not be hidden.
"""

from __future__ import annotations

from typing import Any

from django.db import models

from ._storing import schema

NAME_LENGTH = 100  # of a column; the specification allows names of 99


class LayerMessage(models.Model):
    """A message sent: to a channel, or (once for every inbox with members) to a group."""

    id = models.BigAutoField("ID", primary_key=True)
    inbox = models.CharField(
        max_length=NAME_LENGTH,
        help_text="Where the message waits: the process, or the normal channel.",
    )
    channel = models.CharField(  # noqa: DJ001 - null says "to a group"; no channel is named ""
        max_length=NAME_LENGTH,
        null=True,
        blank=True,
        help_text="The channel it was sent to; empty for a message to a group.",
    )
    group = models.CharField(  # noqa: DJ001 - null says "to a channel"; no group is named ""
        max_length=NAME_LENGTH,
        null=True,
        blank=True,
        help_text="The group it was sent to; empty for a message to a channel.",
    )
    body = models.BinaryField(help_text="The message, serialized.")
    created_at = models.FloatField(help_text="When it was sent, in unix seconds.")
    expires_at = models.FloatField(
        help_text="When it is no longer worth delivering, in unix seconds."
    )
    delivered_at = models.FloatField(
        null=True,
        blank=True,
        help_text="When a reader took it, in unix seconds; empty while it waits.",
    )

    class Meta:
        db_table = schema.MESSAGE
        verbose_name = "message"

    def __str__(self) -> str:
        return f"{self.pk} to {self.channel or self.group}"


class LayerMembership(models.Model):
    """A channel's place in a group."""

    id = models.BigAutoField("ID", primary_key=True)
    group = models.CharField(max_length=NAME_LENGTH)
    inbox = models.CharField(
        max_length=NAME_LENGTH, help_text="The inbox through which the channel is read."
    )
    channel = models.CharField(max_length=NAME_LENGTH)
    expires_at = models.FloatField(
        help_text="When the membership lapses, in unix seconds; a process that lives keeps those "
        "of its own channels by its own clock."
    )
    joined_after = models.BigIntegerField(
        "joined after message",
        help_text="The newest message's id at the join; only later ones count.",
    )
    left_after = models.BigIntegerField(
        "left after message",
        null=True,
        blank=True,
        help_text="The newest message's id when it left, while earlier ones still wait to be read; "
        "empty for a member.",
    )

    class Meta:
        db_table = schema.MEMBERSHIP
        verbose_name = "membership"

    def __str__(self) -> str:
        return f"{self.channel} in {self.group}"


class LayerSequence(models.Model):
    """An inbox's sequence: the one row that a reader looks at when it is unsure.

    A trigger keeps it (see `_storing/schema.py`); it rises with every message for the inbox, and
    whenever a message is given back. The row of inbox "" is a random number, and another one once
    the tables were emptied.
    """

    inbox = models.CharField(max_length=NAME_LENGTH, primary_key=True)
    seq = models.BigIntegerField()

    class Meta:
        db_table = schema.SEQUENCE
        verbose_name = "sequence"

    def __str__(self) -> str:
        return f"{self.inbox} at {self.seq}"


class Sent(models.Model):
    """A message that is sent by SQL: a row of a view, into which rows can only be inserted."""

    class Meta:
        abstract = True

    def save(self, **options: Any) -> None:
        super().save(**{**options, "force_insert": True})


class ChannelSend(Sent):
    """A message to a channel, sent by SQL, in the transaction that it is created in.

    `ChannelSend.objects.create(channel="mail", message=json.dumps({"type": "mail.send"}))` inserts
    into the view `channels_sqlite_send` (see `_storing/schema.py`): readers get the message when
    the transaction commits, and never when it is rolled back. There is nothing to query, to update
    or to delete.
    """

    channel = models.CharField(max_length=NAME_LENGTH, primary_key=True)
    message = models.TextField()

    class Meta:
        managed = False
        db_table = schema.SEND
        default_permissions = ()

    def __str__(self) -> str:
        return f"to {self.channel}"


class GroupSend(Sent):
    """A message to a group, sent by SQL: as `ChannelSend`."""

    group = models.CharField(max_length=NAME_LENGTH, primary_key=True)
    message = models.TextField()

    class Meta:
        managed = False
        db_table = schema.GROUP_SEND
        default_permissions = ()

    def __str__(self) -> str:
        return f"to {self.group}"
