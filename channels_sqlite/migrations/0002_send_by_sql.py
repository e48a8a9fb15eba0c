"""The views to send through with SQL, and their triggers."""

# ruff: noqa: RUF012 - lists, as makemigrations writes them
from django.db import migrations, models

from channels_sqlite import schema


class Migration(migrations.Migration):
    dependencies = [("channels_sqlite", "0001_initial")]

    operations = [
        migrations.RunSQL(
            sql=[*schema.VIEWS.values(), *schema.VIEW_TRIGGERS.values()],
            reverse_sql=[f"drop view if exists {name}" for name in schema.VIEWS],
        ),
        migrations.CreateModel(
            name="Send",
            fields=[
                ("channel", models.CharField(max_length=100, primary_key=True, serialize=False)),
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
                ("group", models.CharField(max_length=100, primary_key=True, serialize=False)),
                ("message", models.TextField()),
            ],
            options={
                "db_table": "channels_sqlite_group_send",
                "managed": False,
                "default_permissions": (),
            },
        ),
    ]
