"""Whoever joins again is there, whatever had expired unread before."""

# ruff: noqa: RUF012 - lists, as makemigrations writes them
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("channels_sqlite", "0002_send_by_sql")]

    operations = [
        migrations.AddField(
            model_name="membership",
            name="renewed_after",
            field=models.BigIntegerField(
                blank=True,
                help_text="The newest message's id when it joined again, if it has; what expired"
                " unread until then does not take it out.",
                null=True,
            ),
        ),
    ]
