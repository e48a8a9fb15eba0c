"""Post into a room from another process: a cron job, a deployment, a shell."""

from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.core.management.base import BaseCommand, CommandError, CommandParser

from chat.forms import NoteForm
from chat.models import Line
from chat.rooms import group_name


class Command(BaseCommand):
    help = "Say a line in a room of the chat."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("room")
        parser.add_argument("text")
        parser.add_argument("--name", default="Announcer")

    def handle(self, *args: Any, **options: Any) -> None:
        form = NoteForm(options)
        if not form.is_valid():
            refused = (f"{name}: {' '.join(errors)}" for name, errors in form.errors.items())
            raise CommandError("; ".join(refused))
        line = Line.objects.post(**form.cleaned_data)
        async_to_sync(get_channel_layer().group_send)(group_name(line.room), line.as_event())
        self.stdout.write(f"Said in {line.room}: {line}")
