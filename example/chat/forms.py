"""The forms for what people may send, and the words in which we refuse the rest.

WebSocket, web form and command line all come through here.
"""

from django import forms
from django.core.exceptions import ValidationError

from chat.models import MOST, Line
from chat.rooms import NAME_LENGTH as ROOM_LENGTH
from chat.rooms import room_name

NAME_LENGTH = Line._meta.get_field("name").max_length
TEXT_LENGTH = Line._meta.get_field("text").max_length


def whole_characters(value: str) -> None:
    """Refuse half of a surrogate pair: JSON can spell it, but no encoding can write it."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValidationError("There is half a character in this. Please type it again.") from error


class JoinForm(forms.Form):
    name = forms.CharField(
        label="Your name",
        max_length=NAME_LENGTH,
        validators=[whole_characters],
        widget=forms.TextInput(attrs={"autocomplete": "nickname", "dir": "auto"}),
        error_messages={
            "required": "Please tell the others your name.",
            "max_length": f"Please choose a name of at most {NAME_LENGTH} characters.",
        },
    )
    visitor = forms.UUIDField(required=False)
    after = forms.IntegerField(required=False, min_value=0, max_value=MOST)


class CatchUpForm(forms.Form):
    after = forms.IntegerField(min_value=0, max_value=MOST)


class EarlierForm(forms.Form):
    before = forms.IntegerField(min_value=0, max_value=MOST)


class LineForm(forms.Form):
    name = JoinForm.base_fields["name"]
    text = forms.CharField(
        label="Line",
        max_length=TEXT_LENGTH,
        validators=[whole_characters],
        widget=forms.Textarea(attrs={"rows": 2, "dir": "auto"}),
        error_messages={
            "required": "There is nothing in this line yet. Write a word or two.",
            "max_length": (
                "This line has %(show_value)d characters, and a room takes "
                f"{TEXT_LENGTH} at a time. Could you send it in parts?"
            ),
        },
    )
    nonce = forms.UUIDField(required=False, widget=forms.HiddenInput)


class RoomForm(forms.Form):
    """A room, by a name in any script."""

    room = forms.CharField(
        label="Room",
        initial="lobby",
        max_length=ROOM_LENGTH,
        widget=forms.TextInput(attrs={"autocomplete": "off", "dir": "auto"}),
    )

    def clean_room(self) -> str:
        room = room_name(self.cleaned_data["room"])
        if not room:
            raise ValidationError("A room's name needs a letter or a digit.")
        if len(room) > ROOM_LENGTH:  # some characters stand for many
            raise ValidationError(f"Please choose a name of at most {ROOM_LENGTH} characters.")
        return room


class NoteForm(RoomForm, LineForm):
    """A line and the room it is for, from people who are not in the room."""

    field_order = ("room", "name", "text")


def reason(form: forms.Form) -> str:
    """Return why the form was not accepted, in one line."""
    return " ".join(str(message) for messages in form.errors.values() for message in messages)
