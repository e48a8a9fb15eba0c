"""The example in two browser windows that are connected to two server processes."""

from __future__ import annotations

import shlex
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from selenium.webdriver.common.keys import Keys

from tests.example.browser import Window
from tests.example.conftest import Chat
from tests.example.servers import Project, stop
from tests.example.sockets import client

pytestmark = pytest.mark.timeout(300)  # browsers and servers start within

SCRIPT = """<script>document.title = "taken"</script><img src=x onerror='document.title="taken"'>"""

TOO_WIDE = """
    return [...document.querySelectorAll("dialog[open], dialog[open] :not(input)")]
        .filter((element) => element.scrollWidth > element.clientWidth)
        .map((element) => element.cloneNode().outerHTML)
"""

DIRECTIONS = """
    const words = [...document.querySelectorAll("#lines .words")];
    return words.map((each) => getComputedStyle(each).direction)
"""


def test_two_people_hear_each_other_by_way_of_two_processes_and_nobody_elsewhere_does(
    ada: Window, windows: tuple[Window, Window], chat: Chat, room: str
) -> None:
    """They come and go, and change their names."""
    ada.say("Is anybody here?")
    ada.wait_for_line("Ada", "Is anybody here?")
    ben = windows[1]
    ben.enter(chat.second.url, room, "Ben")
    assert ben.lines == [("Ada", "Is anybody here?")]
    assert ada.process != ben.process
    for window in windows:
        window.wait_for(lambda window=window: window.people == ["Ada", "Ben"])
    ben.say("I am.")
    ada.wait_for_line("Ben", "I am.")
    ada.say("Welcome.")
    ben.wait_for_line("Ada", "Welcome.")
    said = [("Ada", "Is anybody here?"), ("Ben", "I am."), ("Ada", "Welcome.")]
    assert ada.lines == ben.lines == said
    ben.click("#rename")
    ben.tell_name("Benedict")
    ada.wait_for(lambda: ada.people == ["Ada", "Benedict"])
    ben.enter(chat.second.url, f"{room}-x", "Ben")
    ada.wait_for(lambda: ada.people == ["Ada"])
    ada.say("Between us")
    ada.wait_for_line("Ada", "Between us")
    ben.say("Nobody here")
    ben.wait_for_line("Ben", "Nobody here")
    assert ben.lines == [("Ben", "Nobody here")]


def test_redis_carries_the_chat_as_well(
    windows: tuple[Window, Window], migrated_example: Path, tmp_path: Path, redis_url: str
) -> None:
    """Its address in the environment is all that differs."""
    project = Project(Path(shutil.copytree(migrated_example, tmp_path / "data")), redis_url)
    ada, ben = windows
    with project.daphne() as server, project.worker("summaries"):
        for window, name in ((ada, "Ada"), (ben, "Ben")):
            window.enter(server.url, "tea", name)
        ben.say("Is tea served?")
        project.manage("say", "tea", "Tea is served", "--name", "Butler")
        for window in windows:
            window.wait_for_line("Butler", "Tea is served")
        ada.click("#summarise")
        ada.wait_for(lambda: "2 lines" in ada.find("#summary-body").text)
        for window in windows:
            window.leave()


def test_a_restarted_server_loses_no_line(ada: Window, ben: Window, chat: Chat) -> None:
    ada.say("one")
    for window in (ada, ben):
        window.wait_for_line("Ada", "one")
    chat.first.stop()
    try:
        ada.wait_until_away()
        ben.say("two, while Ada's server is down")
        ben.wait_for_line("Ben", "two, while Ada's server is down")
        ada.say("three, without a server")
        assert ada.lines == [("Ada", "one")]
    finally:
        chat.first.start()
    ada.wait_until_connected()
    for window in (ada, ben):
        window.wait_for_line("Ada", "three, without a server")
    ben.say("four")
    for window in (ada, ben):
        window.wait_for_line("Ben", "four")
    said = ("one", "two, while Ada's server is down", "three, without a server", "four")
    assert ada.lines == ben.lines == [*zip(("Ada", "Ben", "Ada", "Ben"), said, strict=True)]
    # Chromium itself notes each attempt to connect to nobody; no page can prevent that.
    assert {complaint["source"] for complaint in ada.complaints()} <= {"network"}


def insert(chat: Chat, room: str, count: int) -> list[tuple[str, str]]:
    """Lines whose messages were lost on the way."""
    lines = [("Cleo", f"number {number}") for number in range(count)]
    with closing(sqlite3.connect(chat.project.directory / "db.sqlite3")) as database, database:
        database.executemany(
            """
            insert into chat_line (room, name, text, nonce, created_at)
            values (?, ?, ?, ?, datetime('now'))
            """,
            [(room, *line, uuid4().hex) for line in lines],
        )
    return lines


def test_a_page_finds_what_no_message_told_it_and_what_was_said_earlier(
    ada: Window, ben: Window, chat: Chat, room: str
) -> None:
    """That comes above, and leaves the rest where it is."""
    ben.say("before")
    ada.wait_for_line("Ben", "before")
    unheard = insert(chat, room, 120)  # more than one page
    ben.say("after")
    lines = [("Ben", "before"), *unheard, ("Ben", "after")]
    for window in (ada, ben):
        window.wait_for(lambda window=window: len(window.lines) == 122)
        assert window.lines == lines
    ben.driver.refresh()
    ben.wait_until_connected()
    place = "return document.querySelector('.line').getBoundingClientRect().top"
    for shown in (50, 100):
        assert len(ben.lines) == shown
        ben.driver.execute_script("document.getElementById('log').scrollTop = 0")
        ben.driver.execute_script("window.first = document.querySelector('.line')")
        before = ben.driver.execute_script(place)
        ben.click("#earlier")
        ben.wait_for(lambda shown=shown: len(ben.lines) > shown)
        after = ben.driver.execute_script(place.replace("document.querySelector('.line')", "first"))
        assert after == pytest.approx(before, abs=60)  # a day stood above it
    assert ben.lines == lines
    assert not ben.find("#earlier").is_displayed()
    assert not ben.find("#newer").is_displayed()
    assert ben.focused == "log"


def test_the_worker_answers_who_asked_about_lines_of_a_command_and_of_a_sync_view(
    ada: Window, windows: tuple[Window, Window], chat: Chat, room: str
) -> None:
    ben = windows[1]
    chat.project.manage("say", room, "Cheese and biscuits", "--name", "Butler")
    ada.wait_for_line("Butler", "Cheese and biscuits")
    ben.leave_a_line(chat.second.url, room, "Cleo", "Biscuits")
    ada.wait_for_line("Cleo", "Biscuits")
    ben.enter(chat.second.url, room, "Ben")
    ben.click("#summarise")
    ben.wait_for(lambda: "2 lines" in ben.find("#summary-body").text)
    assert [item.text for item in ben.find_all(".words-used li")] == ["biscuits", "cheese"]
    assert not ada.find("#summary").is_displayed()


def test_words_are_shown_as_they_were_written_and_stay_if_there_are_too_many(
    ada: Window, ben: Window
) -> None:
    """Markup stays text, and they run in the direction of their script. A line that is empty or
    long is declined, and can be shortened.
    """
    ada.click("#rename")
    ada.tell_name("<b>Ada</b>")
    ada.wait_for(lambda: "<b>Ada</b>" in ada.people)
    title = ben.driver.title
    ada.say(SCRIPT)
    ben.wait_for_line("<b>Ada</b>", SCRIPT)
    ada.wait_for_line("<b>Ada</b>", SCRIPT)
    ben.say("\N{HEBREW LETTER SHIN}\N{HEBREW LETTER LAMED}, Ada!")
    ben.say("Nice try")
    ada.wait_for_line("Ben", "Nice try")
    assert ada.find_all("#lines img, #lines script, #people b") == []
    assert ben.driver.title == title
    assert ada.driver.execute_script(DIRECTIONS) == ["ltr", "rtl", "ltr"]
    ada.say("  ")
    assert "nothing in this line" in ada.notice
    assert ada.find("#notice").aria_role == "alert"
    ada.driver.execute_script("document.getElementById('text').value = 'x'.repeat(1001)")
    ada.say("")
    ada.wait_for(lambda: "1001 characters" in ada.notice)
    assert len(ada.lines) == 3
    ada.find("#text").send_keys(Keys.BACKSPACE)
    assert not ada.find("#notice").is_displayed()
    ada.say("")
    ada.wait_for_line("<b>Ada</b>", "x" * 1000)


def test_a_name_of_blanks_or_of_another_visitor_is_asked_for_again(
    ada: Window, windows: tuple[Window, Window], chat: Chat, room: str
) -> None:
    """Escape leaves the dialog, and a button leads back."""
    other = windows[1]
    other.open(chat.second.url, room)
    other.tell_name("  ")
    other.wait_for(lambda: other.find("#naming-notice").is_displayed())
    other.press(Keys.ESCAPE)
    assert not other.find("#naming").is_displayed()
    other.click("#join")
    other.tell_name("Ada")
    other.wait_for(lambda: "Ada is taken" in other.find("#naming-notice").text)
    assert other.focused == "name"
    other.tell_name("Ada L.")
    other.wait_until_connected()
    assert not other.find("#join").is_displayed()
    ada.wait_for(lambda: ada.people == ["Ada", "Ada L."])
    other.click("#rename")
    other.tell_name("Ada")
    other.wait_for(lambda: "Ada is taken" in other.find("#naming-notice").text)
    other.press(Keys.ESCAPE)
    assert not other.find("#join").is_displayed()
    other.say("I stay who I am")
    ada.wait_for_line("Ada L.", "I stay who I am")


def test_the_keyboard_reaches_everything_and_a_screen_reader_finds_its_name(ada: Window) -> None:
    """On a phone people are behind a button."""
    ada.say("Hello")
    ada.wait_for_line("Ada", "Hello")
    assert ada.find("#log").aria_role == "log"
    assert ada.find("#status").aria_role == "status"
    for control in ada.find_all("button, a, input, textarea"):
        if control.is_displayed():
            assert control.accessible_name, control.get_attribute("outerHTML")
    reached = {ada.focused}
    for _ in range(30):
        ada.press(Keys.TAB)
        reached.add(ada.focused)
    assert {"text", "log", "summarise", "rename", "Send", "All rooms"} <= reached
    ada.find("#summarise").send_keys(Keys.ENTER)
    ada.wait_for(lambda: ada.find("#summary").is_displayed())
    ada.press(Keys.ESCAPE)
    assert ada.focused == "summarise"
    with ada.on_a_phone():
        ada.wait_for(lambda: not ada.find("#people").is_displayed())
        ada.click("#people-toggle")
        ada.wait_for(lambda: ada.find("#people").is_displayed())
        ada.press(Keys.ESCAPE)
        ada.wait_for(lambda: not ada.find("#people").is_displayed())
        assert ada.focused == "people-toggle"
        width = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert ada.driver.execute_script(width) == 0


def test_no_long_word_cuts_a_dialog(windows: tuple[Window, Window], chat: Chat, room: str) -> None:
    ada = windows[0]
    room = room.replace("-", "").ljust(40, "w")
    with client(chat.first.url, room) as ben, ada.on_a_phone():
        ben.join("W" * 32)
        ben.say("w" * 90)
        ada.open(chat.first.url, room)
        assert ada.driver.execute_script(TOO_WIDE) == []
        ada.tell_name("W" * 32)
        ada.wait_for(lambda: ada.find("#naming-notice").is_displayed())
        assert ada.driver.execute_script(TOO_WIDE) == []
        ada.tell_name("Ada")
        ada.wait_until_connected()
        ada.click("#summarise")
        ada.wait_for(lambda: ada.find_all(".talkers"))
        assert ada.driver.execute_script(TOO_WIDE) == []
    assert ada.driver.execute_script(TOO_WIDE) == []  # on a desktop


def test_the_admin_shows_our_tables(windows: tuple[Window, Window], chat: Chat, room: str) -> None:
    keeper = windows[1]
    make = "from django.contrib.auth.models import User; User.objects.create_superuser(*{!r})"
    chat.project.manage("shell", "-c", make.format((room, "", room)))
    with client(chat.first.url, room) as ada:
        ada.join("Ada")
        ada.say("For the record")
    keeper.driver.get(f"{chat.second.url}/admin/channels_sqlite/layermessage/")
    for field in ("username", "password"):
        keeper.find(f"#id_{field}").send_keys(room)
    keeper.find("#id_password").submit()
    keeper.wait_for(lambda: keeper.find_all("#result_list"))
    assert "room.line" in keeper.find("#result_list").text


def test_two_uvicorn_workers_share_a_room_whose_page_says_how_to_start_a_worker(
    windows: tuple[Window, Window], project: Project, room: str
) -> None:
    ada, ben = windows
    with project.uvicorn(workers=2) as server:
        ada.enter(server.url, room, "Ada")
        ben.enter(server.url, room, "Ben")
        # The kernel chooses the worker; reload until it has chosen another.
        for _ in range(100):
            if ben.process != ada.process:
                break
            ben.driver.refresh()
            ben.wait_until_connected()
        else:
            pytest.fail("100 connections went to the same worker")
        ada.say("Which worker is yours?")
        ben.wait_for_line("Ada", "Which worker is yours?")
        ben.say("Not yours")
        ada.wait_for_line("Ben", "Not yours")
        ada.click("#summarise")
        ada.wait_for(lambda: ada.find_all("#summary-body code"))
        command = shlex.split(ada.find("#summary-body code").text)
        worker = project.run(command, "worker", where=project.directory)  # any terminal will do
        try:
            ada.press(Keys.ESCAPE)
            ada.click("#summarise")
            ada.wait_for(lambda: "2 lines" in ada.find("#summary-body").text)
        finally:
            stop(worker)
        for window in windows:
            window.leave()
