"""A browser window in the chat, in the words of somebody who uses it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM = shutil.which("chromium")
CHROMEDRIVER = shutil.which("chromedriver")
PATIENCE = 30.0

FLAGS = (
    "--no-sandbox",  # tests run as root in containers
    *("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--lang=en-GB", "--window-size=1100,800"),
)

LINES = """
    return [...document.querySelectorAll("#lines > .line:not(.waiting)")].map(
        (line) => [line.dataset.name, line.querySelector(".words").textContent])
"""
PEOPLE = """
    return [...document.querySelectorAll("#people li")].map((item) => item.dataset.name)
"""


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    assert CHROMIUM is not None
    assert CHROMEDRIVER is not None
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, Service(CHROMEDRIVER))
    try:
        yield driver
    finally:
        driver.quit()


class Window:
    """One window of a browser of its own."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    # The deeds of a person

    def enter(self, server: str, room: str, name: str) -> None:
        """Open the room's page for the first time, and tell a name."""
        self.open(server, room)
        self.tell_name(name)
        self.wait_until_connected()

    def open(self, server: str, room: str) -> None:
        """Open the room's page as somebody who never was there."""
        self.driver.get(f"{server}/chat")  # of the same origin, and keeps nothing itself
        self.driver.execute_script("sessionStorage.clear(); localStorage.clear()")
        self.driver.get(f"{server}/chat/{room}")

    def leave(self) -> None:
        self.driver.get("about:blank")

    def tell_name(self, name: str) -> None:
        field = self.find("#name")
        field.clear()
        field.send_keys(name, Keys.ENTER)

    def say(self, words: str) -> None:
        self.find("#text").send_keys(words, Keys.ENTER)

    def leave_a_line(self, server: str, room: str, name: str, words: str) -> None:
        """Post by the form on the page of rooms, which needs no script."""
        self.driver.get(f"{server}/chat")
        self.find("#id_room").clear()
        for field, value in (("room", room), ("name", name), ("text", words)):
            self.find(f"#id_{field}").send_keys(value)
        self.find("#id_text").submit()
        self.wait_for(lambda: self.find_all(".posted"))

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def press(self, key: str) -> None:
        """Press a key wherever the focus is."""
        self.driver.switch_to.active_element.send_keys(key)

    def resize(self, screen: dict[str, Any]) -> None:
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    @contextmanager
    def on_a_phone(self) -> Iterator[None]:
        self.resize({"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True})
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    @contextmanager
    def dark(self) -> Iterator[None]:
        """Look at the page in the evening."""
        scheme = {"name": "prefers-color-scheme", "value": "dark"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def find_all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    # The things that a person sees

    @property
    def lines(self) -> list[tuple[str, str]]:
        """(name, words) of every line that the server has confirmed, top to bottom."""
        return [(name, words) for name, words in self.driver.execute_script(LINES)]

    @property
    def people(self) -> list[str]:
        names: list[str] = self.driver.execute_script(PEOPLE)
        return names

    @property
    def process(self) -> int:
        """The server process that this window is connected to."""
        return int(self.find("#status").text.split()[-1])

    @property
    def notice(self) -> str:
        return self.find("#notice").text

    @property
    def focused(self) -> str:
        """The element with the focus: its id, or its name for a screen reader."""
        element = self.driver.switch_to.active_element
        return element.get_attribute("id") or element.accessible_name

    # Waiting

    def wait_until_connected(self) -> None:
        self.wait_for(lambda: self.find("#status").get_attribute("data-state") == "here")
        self.wait_for(lambda: self.find("#log").get_attribute("aria-busy") == "false")

    def wait_until_away(self) -> None:
        self.wait_for(lambda: self.find("#status").get_attribute("data-state") == "away")

    def wait_for_line(self, name: str, words: str) -> None:
        self.wait_for(lambda: (name, words) in self.lines)

    def wait_for(self, what: Any) -> None:
        WebDriverWait(self.driver, PATIENCE, poll_frequency=0.05).until(lambda _: what())

    # Complaints

    def complaints(self) -> list[dict[str, Any]]:
        """All entries of the console since the last call."""
        get_log: Any = self.driver.get_log  # which selenium has not typed
        entries: list[dict[str, Any]] = get_log("browser")
        return entries
