"""Debian's Chromium, headless, as the browser tests drive it; nothing it does leaves the machine."""

from __future__ import annotations

import functools
import http.server
import io
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM = Path("/usr/bin/chromium")
CHROMEDRIVER = Path("/usr/bin/chromedriver")
ARTEFACTS = Path(__file__).parent / "artefacts"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-prefers-reduced-motion",
    "--lang=en",
)


class Browser:
    """A Chromium window that remembers what it asked for and complained of."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(str(CHROMEDRIVER)))
        self.driver.set_page_load_timeout(120)

    def open(self, address: str, width: int = 1400, height: int = 900) -> None:
        """Load a page at a size of the window's inside, and wait until it is drawn."""
        self.resize(width, height)
        self.driver.get(address)
        self.until("return document.querySelectorAll('#layers input').length > 0")
        self.settle()

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def run(self, script: str, *arguments: object) -> object:
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str, *arguments: object, seconds: float = 60) -> object:
        return WebDriverWait(self.driver, seconds, poll_frequency=0.1).until(
            lambda driver: driver.execute_script(script, *arguments)
        )

    def settle(self) -> None:
        """Wait until every picture in sight has come and what it replaced is gone."""
        self.until(
            "const all = [...document.querySelectorAll('#map img.pixels, #map .pixels img')];"
            "const marks = all.map((one) => one.src + one.complete).join();"
            "const same = window.lastMarks === marks; window.lastMarks = marks;"
            "return same && all.length > 0 && all.every((one) => one.complete && one.naturalWidth > 0)"
        )

    def get(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def click(self, selector: str) -> None:
        self.run("arguments[0].scrollIntoView({block: 'center'})", self.get(selector))
        self.get(selector).click()

    def slide(self, selector: str, value: object) -> None:
        """Set a range or a select as a reader does, with its events."""
        self.run(
            "arguments[0].value = arguments[1];"
            "for (const kind of ['input', 'change']) arguments[0].dispatchEvent(new Event(kind, {bubbles: true}))",
            self.get(selector),
            value,
        )

    def map_pixels(self) -> np.ndarray:
        """Return the map as it is seen, (y, x, 3) uint8."""
        self.run("window.scrollTo(0, 0)")  # a fraction of a pixel further the picture would have another size
        picture = Image.open(io.BytesIO(self.get("#stage").screenshot_as_png)).convert("RGB")
        return np.asarray(picture)

    def centre(self) -> tuple[float, float]:
        lat, lon = self.run("const at = MANGROVES_MAP.getCenter(); return [at.lat, at.lng]")  # type: ignore[misc]
        return float(lat), float(lon)

    def keep(self, name: str) -> Path:
        """Save what is in the window as an artefact."""
        ARTEFACTS.mkdir(exist_ok=True)
        path = ARTEFACTS / f"{name}.png"
        path.write_bytes(self.driver.get_screenshot_as_png())
        return path

    def asked(self) -> set[str]:
        """Return the addresses of all requests since the last call."""
        found = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.add(message["params"]["request"]["url"])
        return found

    def complaints(self) -> list[str]:
        """Return what the console said since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """Start a browser with a profile of its own, and end it."""
    browser = Browser(folder / "profile")
    try:
        yield browser
    finally:
        browser.driver.quit()
        shutil.rmtree(folder / "profile", ignore_errors=True)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def static_host(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback as a static host does; yield its address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
