"""axe-core looks at each screen of the example: on a phone and a desktop, in light and dark."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from selenium.webdriver.common.keys import Keys

from tests.example.browser import Window
from tests.example.conftest import Chat
from tests.example.sockets import client

Axe = pytest.importorskip("axe_selenium_python", reason="this Python is older than axe's 3.12").Axe

pytestmark = pytest.mark.timeout(300)  # browsers and servers start within

RUN = "axe.run({ resultTypes: ['violations'] }).then(arguments[0])"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", ["desktop", "phone"])
def test_axe_finds_no_fault(
    windows: tuple[Window, Window],
    chat: Chat,
    room: str,
    screen: str,
    scheme: str,
) -> None:
    ada = windows[0]
    with ExitStack() as stack:
        if screen == "phone":
            stack.enter_context(ada.on_a_phone())
        if scheme == "dark":
            stack.enter_context(ada.dark())
        ben = stack.enter_context(client(chat.first.url, room))
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
        if screen == "phone":
            ada.click("#people-toggle")
            assert faults(ada) == []
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


def faults(window: Window) -> list[str]:
    """What axe-core says of the page as it stands, a line for each element."""
    still = "return document.getAnimations().length === 0"
    window.wait_for(lambda: window.driver.execute_script(still))
    Axe(window.driver).inject()
    return [
        f"{violation['impact']}: {violation['id']}: {node['html']}: {node['failureSummary']}"
        for violation in window.driver.execute_async_script(RUN)["violations"]
        for node in violation["nodes"]
    ]
