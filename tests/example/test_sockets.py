"""The example's answers to a client that speaks its protocol, well or badly."""

from __future__ import annotations

from http import HTTPStatus
from http.cookiejar import CookieJar
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import HTTPCookieProcessor, Request, build_opener, urlopen
from uuid import uuid4

import pytest
from websockets.exceptions import InvalidStatus

from tests.example.conftest import Chat
from tests.example.sockets import client

pytestmark = pytest.mark.timeout(300)  # servers start within


def test_a_page_or_form_of_another_site_is_turned_away(chat: Chat, room: str) -> None:
    for origin in ("https://elsewhere.example", "http://127.0.0.1.example", "null"):
        with pytest.raises(InvalidStatus) as refusal, client(chat.first.url, room, origin):
            pass
        assert refusal.value.response.status_code == HTTPStatus.FORBIDDEN
        fields = urlencode({"room": room, "name": "Mallory", "text": "Forged"}).encode()
        forged = Request(f"{chat.first.url}/lines", fields, {"Origin": origin})
        with pytest.raises(HTTPError) as error, urlopen(forged):
            pass
        error.value.close()
        assert error.value.code == HTTPStatus.FORBIDDEN


@pytest.mark.parametrize("name", ["room", "部屋", "x" * 31])
def test_a_visitor_who_left_a_line_is_told_so_once(chat: Chat, room: str, name: str) -> None:
    room = f"{name}-{room[-8:]}"
    cookies = CookieJar()
    visitor = build_opener(HTTPCookieProcessor(cookies))
    lobby = f"{chat.first.url}/chat"
    visitor.open(lobby).close()
    [token] = [cookie.value for cookie in cookies if cookie.name == "csrftoken"]
    fields = {"room": room, "name": "Ada", "text": "Hello", "csrfmiddlewaretoken": token}
    with visitor.open(f"{chat.first.url}/lines", urlencode(fields).encode()) as response:
        assert response.url == lobby
        link = f'<a href="/chat/{quote(room)}"><bdi>{room}</bdi></a>'
        assert f"Your line is in {link}." in response.read().decode()
    for query in ("", f"?posted={quote(room)}", "?posted=nowhere"):  # claims nothing
        with visitor.open(f"{lobby}{query}") as response:
            assert "Your line" not in response.read().decode()


ADDRESSES = {
    "/chat/": "/chat",
    "/chat/lobby/": "/chat/lobby",
    "/chat/Tea%20&%20Cake": "/chat/tea-cake",
    "/chat?room=yo/u": "/chat/yo-u",
    "/chat?room=%D7%A9%D7%9C%D7%95%D7%9D": "/chat/%D7%A9%D7%9C%D7%95%D7%9D",
}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_address_leads_to_a_page(chat: Chat, method: str) -> None:
    for path, where in ADDRESSES.items():
        with urlopen(Request(chat.first.url + path, method=method)) as response:
            assert response.status == HTTPStatus.OK
            assert response.url == chat.first.url + where


def test_a_bad_name_of_a_room_is_declined_at_its_field(chat: Chat) -> None:
    for wish in ("", "!", "\N{HEAVY BLACK HEART}\ufe0f", "x" * 41, "\ufdfa" * 3):
        with urlopen(f"{chat.first.url}/chat?{urlencode({'room': wish})}") as response:
            page = response.read().decode()
        field = next(line for line in page.split("<") if 'id="enter_room"' in line)
        assert 'aria-invalid="true"' in field
        assert 'id="enter_room_error"' in page


@pytest.mark.parametrize("name", ["हिन्दी-बात", "שלום", "łódź", "部屋", "x" * 30])
def test_a_room_is_named_in_any_script(chat: Chat, room: str, name: str) -> None:
    room = quote(f"{name}-{room[-4:]}")
    with client(chat.first.url, room) as ada, client(chat.second.url, room) as ben:
        ada.join("Ada")
        ben.join("Ben")
        line = ada.say("Hello")["line"]
        assert ben.receive("line")["line"] == line


BAD_FRAMES: list[str | bytes] = [
    *("{", b"\x00\xff", "[1]", '{"type": "room_line"}', '{"type": ["join"]}'),
    '{"type": "say", "text": "Not joined yet"}',
    '{"type": "join", "name": "Ada", "after": -1}',
    '{"type": "join", "name": "Ada", "after": 1e400}',
    *(f'{{"type": "join", "name": "{name}"}}' for name in ("", "\\ud800", "a\\u0000", "x" * 33)),
]


def test_bad_frames_and_lines_are_declined_and_the_connection_stays(chat: Chat, room: str) -> None:
    with client(chat.first.url, room) as ada:
        for frame in BAD_FRAMES:
            ada.connection.send(frame)
            assert ada.receive("refused")["reason"], frame
        assert ada.join("Ada")["type"] == "lines"
        for text in ("", " \n ", "x" * 1001, "\ud83d"):
            assert ada.say(text)["reason"]
        assert ada.say("Good")["line"]["text"] == "Good"


def test_a_line_that_is_sent_twice_is_kept_once(chat: Chat, room: str) -> None:
    nonce = str(uuid4())
    with client(chat.first.url, room) as tab, client(chat.second.url, room) as another:
        tab.join("Ada")
        first = tab.say("Once", nonce)["line"]
        assert another.join("Ada")["type"] == "lines"
        assert another.receive("people")["names"] == ["Ada"]  # two tabs may share the name
        assert another.say("Once", nonce)["line"] == first
        assert another.join("Ada")["lines"] == [first]


def test_later_and_earlier_lines_come_in_pages(chat: Chat, room: str) -> None:
    with client(chat.first.url, room) as ada:
        ada.join("Ada")
        ids = [ada.say(f"line {number}")["line"]["id"] for number in range(120)]
    with client(chat.second.url, room) as ben:
        page = ben.join("Ben")
        seen = [line["id"] for line in page["lines"]]
        assert (seen, page["earlier"]) == (ids[-50:], True)
        while page.get("earlier") or page.get("more"):
            ben.send(type="earlier", before=seen[0])
            page = ben.receive("earlier")
            seen = [line["id"] for line in page["lines"]] + seen
        assert seen == ids
        page = ben.join("Ben", after=ids[0])  # who was away gets everything
        assert page["more"]
        ben.send(type="catch_up", after=page["lines"][-1]["id"])
        rest = ben.receive("lines")
        assert not rest["more"]
        assert [line["id"] for line in page["lines"] + rest["lines"]] == ids[1:]


def test_two_visitors_of_one_name_cannot_be_in_a_room(chat: Chat, room: str) -> None:
    stranger = uuid4()
    with client(chat.second.url, room) as other:
        with client(chat.first.url, room) as ada:
            ada.join("Ada")
            refusal = other.join("ada", visitor=stranger)
            assert refusal["about"] == "name"
            assert "ada" in refusal["reason"]
            assert other.join("Ben", visitor=stranger)["type"] == "lines"
            assert other.join("Ada", visitor=stranger)["about"] == "name"
            assert ada.say("Still me")["line"]["name"] == "Ada"
            other.send(type="catch_up", after=0)
            assert other.receive("people")["names"] == ["Ada", "Ben"]
        while other.receive("people")["names"] != ["Ben"]:
            pass  # until Ada has left
        assert other.join("Ada", visitor=stranger)["type"] == "lines"


def test_lines_name_the_one_before_and_a_rename_makes_nobody_new(chat: Chat, room: str) -> None:
    with client(chat.first.url, room) as ada, client(chat.first.url, f"{room}-x") as other:
        ada.join("Ada")
        other.join("Ada")
        first = ada.say("first")
        other.say("elsewhere")
        second = ada.say("second")
        assert (first["previous"], second["previous"]) == (0, first["line"]["id"])
        ada.join("Countess")
        ada.send(type="catch_up", after=0)
        while (people := ada.receive("people")["names"]) != ["Countess"]:
            assert people == ["Ada"]


def test_the_page_is_not_to_be_framed_and_loads_nothing_from_afar(chat: Chat) -> None:
    with urlopen(f"{chat.first.url}/chat/lobby") as response:
        page = response.read().decode()
    assert response.headers["X-Frame-Options"] == "DENY"
    assert "default-src 'self'" in page
    assert "//" not in page.split("<body", 1)[1]


def test_jobs_of_many_are_answered_each_to_its_own(chat: Chat) -> None:
    with (
        client(chat.first.url, f"a-{uuid4().hex}") as ada,
        client(chat.second.url, f"b-{uuid4().hex}") as ben,
    ):
        for number, person in enumerate((ada, ben), start=1):
            person.join("Somebody")
            for _ in range(number):
                person.say("word")
        for person in (ada, ben):
            person.send(type="summarise")
        answers = [person.receive("summary")["summary"] for person in (ada, ben)]
        assert [answer["lines"] for answer in answers] == [1, 2]
