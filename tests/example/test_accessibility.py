"""axe-core looks at each screen of the example: on a phone and a desktop, in light and dark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
from selenium.webdriver.common.keys import Keys

from tests.example.browser import Window
from tests.example.conftest import Chat
from tests.example.sockets import client

Axe = pytest.importorskip("axe_selenium_python", reason="this Python is older than axe's 3.12").Axe

pytestmark = pytest.mark.timeout(300)  # browsers and servers start within

RUN = "axe.run({ resultTypes: ['violations'] }).then(arguments[0])"


def test_axe_finds_no_fault(windows: tuple[Window, Window], chat: Chat, room: str) -> None:
    ada = windows[0]
    with client(chat.first.url, room) as ben:
        ben.join("Ben")
        for number in range(60):
            ben.say(f"Number {number}")

        ada.leave_a_line(chat.first.url, room, "Ada", "Just passing")
        assert faults(ada) == []
        ada.driver.get(f"{chat.first.url}/chat?room=!")
        assert faults(ada) == []

        ada.open(chat.first.url, room)
        assert faults(ada) == []
        ada.press(Keys.ESCAPE)
        assert faults(ada) == []
        ada.click("#join")
        ada.tell_name("Ben")
        ada.wait_for(lambda: ada.find("#naming-notice").is_displayed())
        assert faults(ada) == []
        ada.tell_name("Ada")
        ada.wait_until_connected()
        ada.say("Hello, Ben")
        ada.wait_for_line("Ada", "Hello, Ben")
        assert faults(ada) == []
        ada.driver.execute_script("document.getElementById('log').scrollTop = 0")
        assert faults(ada) == []
        with ada.on_a_phone():
            ada.click("#people-toggle")
            assert faults(ada, nullcontext) == []
            ada.press(Keys.ESCAPE)
        ada.click("#summarise")
        ada.wait_for(lambda: ada.find_all(".talkers"))
        assert faults(ada) == []
        ada.press(Keys.ESCAPE)

        chat.first.stop()
        try:
            ada.wait_until_away()
            ada.say("On its way")
            assert faults(ada) == []
        finally:
            chat.first.start()
        ada.wait_for_line("Ada", "On its way")
        # Chromium itself notes each attempt to connect to nobody; no page can prevent that.
        assert {complaint["source"] for complaint in ada.complaints()} <= {"network"}


def faults(window: Window, *screens: Callable[[], AbstractContextManager[None]]) -> list[str]:
    """The verdict of axe-core on the page as it stands, on each screen and in each light."""
    Axe(window.driver).inject()
    found: list[str] = []
    for screen in screens or (nullcontext, window.on_a_phone):
        for light in (nullcontext, window.dark):
            with screen(), light():
                found += faults_here(window)
    return found


def faults_here(window: Window) -> Iterator[str]:
    still = "return document.getAnimations().length === 0"
    window.wait_for(lambda: window.driver.execute_script(still))
    for violation in window.driver.execute_async_script(RUN)["violations"]:
        for node in violation["nodes"]:
            yield (
                f"{violation['impact']}: {violation['id']}: {node['html']}: "
                f"{node['failureSummary']}"
            )
