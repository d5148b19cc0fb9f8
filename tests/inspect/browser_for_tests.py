"""A page open in headless Chromium, driven by real keys and clicks."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from attnlib.inspect.exhibit import Exhibit
from attnlib.inspect.page import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1200,800"
)


LEFT, UP, RIGHT, DOWN, ENTER, ESCAPE, END, HOME, TAB = (
    "\ue012", "\ue013", "\ue014", "\ue015", "\ue007", "\ue00c", "\ue010", "\ue011", "\ue004",
)  # fmt: skip


class Browser:
    """A browser with one page open."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver, self.folder = driver, folder

    def show(self, shown: Any, title: str = "t", *, dark: bool = False, view: str = "") -> None:
        """Maps, an exhibit, two of them, or a page; at a view that its address names."""
        path = self.folder / "page.html"
        page = Page((Exhibit(tuple(shown)),), title) if isinstance(shown, list) else shown
        page = Page(page if isinstance(page, tuple) else (page,), title) if not isinstance(page, Page) else page
        page.write(path)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get("about:blank")
        self.driver.get(path.as_uri() + (f"#/{view}" if view else ""))
        self.until("return document.documentElement.dataset.painted")
        if view:
            self.until(f"return document.documentElement.dataset.view === '{view}'")

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def until(self, script: str) -> None:
        end = time.monotonic() + 15
        while not self.run(script):
            assert time.monotonic() < end, script
            time.sleep(0.02)

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.driver, duration=0).send_keys(key).perform()

    def text(self, name: str) -> str:
        return str(self.run(f"return document.getElementById('{name}').textContent"))

    def chosen(self) -> tuple[str, str, str]:
        return self.text("query"), self.text("key"), self.text("weight")

    def focused(self) -> str:
        label = "document.activeElement.getAttribute('aria-label')"
        return str(self.run(f"return {label} ?? document.activeElement.id"))

    def open_first(self) -> None:
        self.run("document.querySelector('.thumb').focus()")
        self.press("\ue007")
        self.until("return !document.getElementById('head').hidden && document.activeElement.id === 'plot'")

    def click(self, selector: str, which: int = 0) -> None:
        self.driver.find_elements("css selector", selector)[which].click()

    def pick(self, name: str, value: object) -> None:
        """Choose an option of a select as a hand does."""
        self.run(f"const s = document.getElementById('{name}'); s.value = '{value}'; s.dispatchEvent(new Event('change'))")

    def texts(self, selector: str) -> list[str]:
        return list(self.run(f"return [...document.querySelectorAll({selector!r})].map(one => one.textContent)"))

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]
