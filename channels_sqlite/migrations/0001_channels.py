"""The tables, and all that belongs to them: made by `tables.py`, from SQL.

No other version has used this name: channels-sqlite 0.1 has a 0001_initial, which `migrate` would
take for ours.
"""

# ruff: noqa: E501, RUF012 - as makemigrations writes it
from django.db import migrations, models

from channels_sqlite._tools import tables


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(tables.make, tables.drop)],
            state_operations=[
                migrations.CreateModel(
                    name="ChannelSend",
                    fields=[
                        (
                            "channel",
                            models.CharField(max_length=100, primary_key=True, serialize=False),
                        ),
                        ("message", models.TextField()),
                    ],
                    options={
                        "db_table": "channels_sqlite_send",
                        "managed": False,
                        "default_permissions": (),
                    },
                ),
                migrations.CreateModel(
                    name="GroupSend",
                    fields=[
                        (
                            "group",
                            models.CharField(max_length=100, primary_key=True, serialize=False),
                        ),
                        ("message", models.TextField()),
                    ],
                    options={
                        "db_table": "channels_sqlite_group_send",
                        "managed": False,
                        "default_permissions": (),
                    },
                ),
                migrations.CreateModel(
                    name="LayerSequence",
                    fields=[
                        (
                            "inbox",
                            models.CharField(max_length=100, primary_key=True, serialize=False),
                        ),
                        ("seq", models.BigIntegerField()),
                    ],
                    options={
                        "verbose_name": "sequence",
                        "db_table": "channels_sqlite_sequence",
                    },
                ),
                migrations.CreateModel(
                    name="LayerMembership",
                    fields=[
                        (
                            "id",
                            models.BigAutoField(
                                primary_key=True, serialize=False, verbose_name="ID"
                            ),
                        ),
                        ("group", models.CharField(max_length=100)),
                        (
                            "inbox",
                            models.CharField(
                                help_text="The inbox through which the channel is read.",
                                max_length=100,
                            ),
                        ),
                        ("channel", models.CharField(max_length=100)),
                        (
                            "expires_at",
                            models.FloatField(
                                help_text="When the membership lapses, in unix seconds; a process that lives keeps those of its own channels by its own clock."
                            ),
                        ),
                        (
                            "joined_after",
                            models.BigIntegerField(
                                help_text="The newest message's id at the join; only later ones count.",
                                verbose_name="joined after message",
                            ),
                        ),
                        (
                            "left_after",
                            models.BigIntegerField(
                                blank=True,
                                help_text="The newest message's id when it left, while earlier ones still wait to be read; empty for a member.",
                                null=True,
                                verbose_name="left after message",
                            ),
                        ),
                    ],
                    options={
                        "verbose_name": "membership",
                        "db_table": "channels_sqlite_membership",
                    },
                ),
                migrations.CreateModel(
                    name="LayerMessage",
                    fields=[
                        (
                            "id",
                            models.BigAutoField(
                                primary_key=True, serialize=False, verbose_name="ID"
                            ),
                        ),
                        (
                            "inbox",
                            models.CharField(
                                help_text="Where the message waits: the process, or the normal channel.",
                                max_length=100,
                            ),
                        ),
                        (
                            "channel",
                            models.CharField(
                                blank=True,
                                help_text="The channel it was sent to; empty for a message to a group.",
                                max_length=100,
                                null=True,
                            ),
                        ),
                        (
                            "group",
                            models.CharField(
                                blank=True,
                                help_text="The group it was sent to; empty for a message to a channel.",
                                max_length=100,
                                null=True,
                            ),
                        ),
                        ("body", models.BinaryField(help_text="The message, serialized.")),
                        (
                            "created_at",
                            models.FloatField(help_text="When it was sent, in unix seconds."),
                        ),
                        (
                            "expires_at",
                            models.FloatField(
                                help_text="When it is no longer worth delivering, in unix seconds."
                            ),
                        ),
                        (
                            "delivered_at",
                            models.FloatField(
                                blank=True,
                                help_text="When a reader took it, in unix seconds; empty while it waits.",
                                null=True,
                            ),
                        ),
                    ],
                    options={
                        "verbose_name": "message",
                        "db_table": "channels_sqlite_message",
                    },
                ),
            ],
        ),
    ]
