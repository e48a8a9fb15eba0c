"""The three tables, and the trigger that keeps the sequences."""

# ruff: noqa: RUF012 - lists, as makemigrations writes them
from django.db import migrations, models

from channels_sqlite import schema


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Sequence",
            fields=[
                ("inbox", models.CharField(max_length=100, primary_key=True, serialize=False)),
                ("seq", models.BigIntegerField()),
            ],
            options={
                "db_table": "channels_sqlite_sequence",
            },
        ),
        migrations.CreateModel(
            name="Membership",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("group", models.CharField(max_length=100)),
                (
                    "inbox",
                    models.CharField(
                        help_text="The inbox through which the channel is read.", max_length=100
                    ),
                ),
                ("channel", models.CharField(max_length=100)),
                (
                    "expires_at",
                    models.FloatField(help_text="When the membership lapses, in unix seconds."),
                ),
                (
                    "joined_after",
                    models.BigIntegerField(
                        help_text="The newest message's id at the join; only later ones count."
                    ),
                ),
            ],
            options={
                "db_table": "channels_sqlite_membership",
                "indexes": [
                    models.Index(fields=["channel"], name="channels_sqlite_member_channel"),
                    models.Index(fields=["expires_at"], name="channels_sqlite_member_expires"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("group", "inbox", "channel"), name="channels_sqlite_member"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Message",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "inbox",
                    models.CharField(
                        help_text="What one reader drains: the name, up to the “!” if it has one.",
                        max_length=100,
                    ),
                ),
                (
                    "channel",
                    models.CharField(
                        blank=True,
                        help_text="The channel it was sent to; null for a message to a group.",
                        max_length=100,
                        null=True,
                    ),
                ),
                (
                    "group",
                    models.CharField(
                        blank=True,
                        help_text="The group it was sent to; null for a message to a channel.",
                        max_length=100,
                        null=True,
                    ),
                ),
                ("body", models.BinaryField(help_text="The message, serialized.")),
                ("created_at", models.FloatField(help_text="When it was sent, in unix seconds.")),
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
                        help_text="When a reader took it, in unix seconds; null while it waits.",
                        null=True,
                    ),
                ),
            ],
            options={
                "db_table": "channels_sqlite_message",
                "indexes": [
                    models.Index(
                        condition=models.Q(("delivered_at__isnull", True)),
                        fields=["inbox", "id", "expires_at"],
                        name="channels_sqlite_waiting",
                    ),
                    models.Index(
                        condition=models.Q(("delivered_at__isnull", False)),
                        fields=["delivered_at"],
                        name="channels_sqlite_delivered",
                    ),
                ],
            },
        ),
        # A list, because a string would be split at the semicolons inside a trigger.
        migrations.RunSQL(
            sql=list(schema.TRIGGERS.values()),
            reverse_sql=[f"drop trigger if exists {name}" for name in schema.TRIGGERS],
        ),
    ]
