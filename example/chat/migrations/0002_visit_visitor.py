import uuid

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("chat", "0001_initial")]

    operations = [
        migrations.AddField("visit", "visitor", models.UUIDField(default=uuid.uuid4)),
    ]
