"""The pages, and a plain form that posts into a room from a sync view."""

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from chat.forms import NAME_LENGTH, TEXT_LENGTH, NoteForm
from chat.models import Line
from chat.rooms import group_name, room_name


@require_GET
def lobby(request: HttpRequest) -> HttpResponse:
    """The list of rooms; with ?room=, straight into that one."""
    if wish := room_name(request.GET.get("room", "")):
        return redirect("room", wish)
    return show_lobby(request, NoteForm(label_suffix=""), posted=request.GET.get("posted", ""))


@require_GET
def room(request: HttpRequest, room: str) -> HttpResponse:
    return render(
        request,
        "chat/room.html",
        {
            "room": room,
            "rooms": Line.objects.rooms(),
            "name_length": NAME_LENGTH,
            "text_length": TEXT_LENGTH,
        },
    )


@require_POST
def post(request: HttpRequest) -> HttpResponse:
    form = NoteForm(request.POST, label_suffix="")
    if not form.is_valid():
        return show_lobby(request, form, status=422)
    line = Line.objects.post(**form.cleaned_data)
    async_to_sync(get_channel_layer().group_send)(group_name(line.room), line.as_event())
    return redirect(reverse("lobby", query={"posted": line.room}))


def show_lobby(
    request: HttpRequest, form: NoteForm, posted: str = "", status: int = 200
) -> HttpResponse:
    context = {"form": form, "posted": posted, "rooms": Line.objects.rooms() or ["lobby"]}
    return render(request, "chat/lobby.html", context, status=status)
