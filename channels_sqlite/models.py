"""The tables, as Django sees them: for migrations, the admin and whoever wants to look.

The layer itself reads and writes them with SQL of its own (see store.py). All times are unix
seconds in REAL columns: `time.time()` writes them, and `datetime(created_at, 'unixepoch')` reads
them in any SQL shell.
"""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from . import schema

NAME_LENGTH = 100  # what the specification allows a channel or a group name


class Message(models.Model):
    """A message sent: to a channel, or (once for every inbox with members) to a group."""

    id = models.BigAutoField(primary_key=True)
    inbox = models.CharField(
        max_length=NAME_LENGTH,
        help_text="What one reader drains: the name, up to the “!” if it has one.",
    )
    channel = models.CharField(  # noqa: DJ001 - null says "to a group"; no channel is named ""
        max_length=NAME_LENGTH,
        null=True,
        blank=True,
        help_text="The channel it was sent to; null for a message to a group.",
    )
    group = models.CharField(  # noqa: DJ001 - null says "to a channel"; no group is named ""
        max_length=NAME_LENGTH,
        null=True,
        blank=True,
        help_text="The group it was sent to; null for a message to a channel.",
    )
    body = models.BinaryField(help_text="The message, serialized.")
    created_at = models.FloatField(help_text="When it was sent, in unix seconds.")
    expires_at = models.FloatField(
        help_text="When it is no longer worth delivering, in unix seconds."
    )
    delivered_at = models.FloatField(
        null=True,
        blank=True,
        help_text="When a reader took it, in unix seconds; null while it waits.",
    )

    class Meta:
        db_table = schema.MESSAGE
        # Partial, so that a day of delivered rows kept for reference costs a reader nothing.
        indexes = (
            models.Index(
                fields=["inbox", "id", "expires_at"],
                name="channels_sqlite_waiting",
                condition=Q(delivered_at__isnull=True),
            ),
            models.Index(
                fields=["delivered_at"],
                name="channels_sqlite_delivered",
                condition=Q(delivered_at__isnull=False),
            ),
        )

    def __str__(self) -> str:
        return f"{self.pk} to {self.channel or self.group}"


class Membership(models.Model):
    """A channel's place in a group."""

    id = models.BigAutoField(primary_key=True)
    group = models.CharField(max_length=NAME_LENGTH)
    inbox = models.CharField(
        max_length=NAME_LENGTH, help_text="The inbox through which the channel is read."
    )
    channel = models.CharField(max_length=NAME_LENGTH)
    expires_at = models.FloatField(help_text="When the membership lapses, in unix seconds.")
    joined_after = models.BigIntegerField(
        help_text="The newest message's id at the join; only later ones count."
    )
    renewed_after = models.BigIntegerField(
        null=True,
        blank=True,
        help_text="The newest message's id when it joined again, if it has; what expired unread"
        " until then does not take it out.",
    )

    class Meta:
        db_table = schema.MEMBERSHIP
        # By channel first, to leave all groups; its name tells its inbox, which is no part of this.
        constraints = (
            models.UniqueConstraint(fields=["channel", "group"], name="channels_sqlite_member"),
        )
        indexes = (
            # Who gets a group's message: all that is asked of a member stands in the index.
            models.Index(
                fields=["group", "inbox", "joined_after", "expires_at", "channel"],
                name="channels_sqlite_member_reads",
            ),
            models.Index(fields=["expires_at"], name="channels_sqlite_member_expires"),
        )

    def __str__(self) -> str:
        return f"{self.channel} in {self.group}"


class Sequence(models.Model):
    """How far an inbox has come: the one row a woken reader looks at.

    Kept by a trigger (see schema.py); it rises with every message for the inbox, and whenever a
    message is given back.
    """

    inbox = models.CharField(max_length=NAME_LENGTH, primary_key=True)
    seq = models.BigIntegerField()

    class Meta:
        db_table = schema.SEQUENCE

    def __str__(self) -> str:
        return f"{self.inbox} at {self.seq}"


class Send(models.Model):
    """A message to a channel, sent by SQL, in the transaction that it is created in.

    `Send.objects.create(channel="mail", message=json.dumps({"type": "mail.send"}))` inserts into
    the view `channels_sqlite_send` (see schema.py): readers get the message when the transaction
    commits, and never when it is rolled back. There is nothing to query, to update or to delete.
    """

    channel = models.CharField(max_length=NAME_LENGTH, primary_key=True)
    message = models.TextField()

    class Meta:
        managed = False
        db_table = schema.SEND
        default_permissions = ()

    def __str__(self) -> str:
        return f"to {self.channel}"


class GroupSend(models.Model):
    """A message to a group, sent by SQL: as `Send`."""

    group = models.CharField(max_length=NAME_LENGTH, primary_key=True)
    message = models.TextField()

    class Meta:
        managed = False
        db_table = schema.GROUP_SEND
        default_permissions = ()

    def __str__(self) -> str:
        return f"to {self.group}"
