"""One index tells all that a group's message asks of its members, one all groups of a channel."""

# ruff: noqa: RUF012 - lists, as makemigrations writes them
from django.db import migrations, models

from channels_sqlite import schema


class Migration(migrations.Migration):
    dependencies = [("channels_sqlite", "0003_membership_renewed_after")]

    operations = [
        # The constraint is the table's, which Django builds anew for that: see `clear_the_way` in
        # apps.py. There it was before 0002 had made the views; `restore` brings them back.
        migrations.RunSQL(
            sql=[f"drop view if exists {name}" for name in schema.VIEWS],
            reverse_sql=migrations.RunSQL.noop,
        ),
        migrations.RemoveConstraint(model_name="membership", name="channels_sqlite_member"),
        migrations.RemoveIndex(model_name="membership", name="channels_sqlite_member_channel"),
        migrations.AddIndex(
            model_name="membership",
            index=models.Index(
                fields=["group", "inbox", "joined_after", "expires_at", "channel"],
                name="channels_sqlite_member_reads",
            ),
        ),
        migrations.AddConstraint(
            model_name="membership",
            constraint=models.UniqueConstraint(
                fields=("channel", "group"), name="channels_sqlite_member"
            ),
        ),
    ]
