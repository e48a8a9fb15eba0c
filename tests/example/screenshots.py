"""Take the example's pictures: python -m tests.example.screenshots"""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.example import browser, sockets
from tests.example.servers import EXAMPLE, Project

ROOM = "garden-club"
CONVERSATION = (
    ("Ada", "Morning! The tomatoes in the glasshouse are finally turning red."),
    ("Ada", "All nine of them."),
    ("Ben", "Nine! Mine are still thinking it over."),
    ("Chiara", "Did you ever find out what has been at the lettuce?"),
    ("Ben", "A rabbit.\nA very calm one. It looked at me and went on eating."),
    ("Ada", "Then we have three members who get up before six."),
    ("Chiara", "Four. I was there at half past five with the watering can, nobody said hello."),
    ("Jo", "That was me behind the beans, and I was asleep on my feet. Sorry!"),
    ("Ada", "Tea at four, then? I bring the scones."),
    ("Ben", "I bring what the rabbit left."),
)
DESKTOP = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}


def main() -> None:
    with ExitStack() as stack:
        place = Path(stack.enter_context(TemporaryDirectory()))
        project = Project(place, "sqlite://")
        project.migrate()
        server = stack.enter_context(project.daphne())
        stack.enter_context(project.worker("summaries"))
        talk(stack, server.url)
        spread_over_a_morning(place / "db.sqlite3")
        window = browser.Window(stack.enter_context(browser.chromium(place / "profile")))
        window.resize(DESKTOP)
        window.enter(server.url, ROOM, "Ada")
        take(window, "desktop")
        with window.dark():
            take(window, "desktop-dark")
        window.resize(PHONE)
        take(window, "phone")
        with window.dark():
            take(window, "phone-dark")
            window.click("#summarise")
            window.wait_for(lambda: window.find_all(".talkers"))
            take(window, "phone-summary")
        window.driver.get(f"{server.url}/chat")
        take(window, "phone-rooms")


def talk(stack: ExitStack, server: str) -> None:
    """Everybody but Ada stays in the room."""
    people = {}
    for name in ("Ada", "Ben", "Chiara", "Jo"):
        people[name] = stack.enter_context(sockets.client(server, ROOM))
        people[name].join(name)
    for name, text in CONVERSATION:
        people[name].say(text)
    people["Ada"].connection.close()


def spread_over_a_morning(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            """
            update chat_line
            set created_at = strftime('%Y-%m-%d 09:', created_at)
                || printf('%02d:00', 12 + (id * id) / 4)
            """
        )


def take(window: browser.Window, name: str) -> None:
    window.driver.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    window.wait_for(lambda: window.driver.execute_script("return !document.getAnimations().length"))
    window.driver.save_screenshot(str(EXAMPLE / "screenshots" / f"{name}.png"))


if __name__ == "__main__":
    main()
