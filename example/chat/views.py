"""The pages, and a plain form that posts into a room from a sync view."""

from urllib.parse import unquote

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from chat import workers
from chat.forms import NAME_LENGTH, TEXT_LENGTH, NoteForm, RoomForm
from chat.models import Line
from chat.rooms import group_name


@require_safe
def lobby(request: HttpRequest) -> HttpResponse:
    """The list of rooms; with ?room=, straight into that one."""
    enter = enter_form(request.GET if "room" in request.GET else None)
    if enter.is_valid():
        return redirect("room", enter.cleaned_data["room"])
    return show_lobby(request, enter, NoteForm(label_suffix=""))


@require_safe
def room(request: HttpRequest, room: str) -> HttpResponse:
    address = reverse("room", args=[room])
    if unquote(address) != request.path:  # one room, one address: /chat/Lobby is /chat/lobby
        return redirect(address)
    return render(
        request,
        "chat/room.html",
        {
            "room": room,
            "rooms": Line.objects.rooms(),
            "name_length": NAME_LENGTH,
            "text_length": TEXT_LENGTH,
            "worker": workers.command(),
        },
    )


@require_POST
def post(request: HttpRequest) -> HttpResponse:
    form = NoteForm(request.POST, label_suffix="")
    if not form.is_valid():
        return show_lobby(request, enter_form(), form, status=422)
    line = Line.objects.post(**form.cleaned_data)
    async_to_sync(get_channel_layer().group_send)(group_name(line.room), line.as_event())
    request.session["posted"] = line.room  # anybody can write an address
    return redirect("lobby")


def enter_form(data: QueryDict | None = None) -> RoomForm:
    return RoomForm(data, auto_id="enter_%s", label_suffix="")


def show_lobby(
    request: HttpRequest, enter: RoomForm, form: NoteForm, status: int = 200
) -> HttpResponse:
    bad = form if form.errors else enter
    bad.fields[next(iter(bad.errors), "room")].widget.attrs["autofocus"] = True
    rooms = Line.objects.rooms() or ["lobby"]
    posted = request.session.pop("posted", "")
    context = {"enter": enter, "form": form, "posted": posted, "rooms": rooms}
    return render(request, "chat/lobby.html", context, status=status)
