"""A real browser."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.ui import WebDriverWait

from support.toolchain import require, unavailable

ROOT = Path(__file__).parents[2]
PHONE, DESKTOP = (390, 844), (1280, 900)


@contextmanager
def chromium(
    *, size: tuple[int, int] = DESKTOP, dark: bool = False, scripts: bool = True
) -> Iterator[webdriver.Chrome]:
    """Start Chromium without a window; without `scripts` no page may run any."""
    browser = require("chromium", "on Debian: apt-get install chromium chromium-driver")
    driver = require("chromedriver", "on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    if not scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        opened.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE},
        )
        opened.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]},
        )
        yield opened
    finally:
        opened.quit()


@contextmanager
def leaving(browser: webdriver.Chrome) -> Iterator[None]:
    """Wait until what is done here has led to another page."""
    page = browser.find_element(By.TAG_NAME, "html")
    yield
    WebDriverWait(browser, 20, ignored_exceptions=[WebDriverException]).until(staleness_of(page))
    WebDriverWait(browser, 20, ignored_exceptions=[WebDriverException]).until(
        lambda opened: opened.find_element(By.TAG_NAME, "h1").is_displayed()
    )


def press(browser: webdriver.Chrome, text: str) -> None:
    """Press the link or button with a text."""
    path = f"//a[normalize-space()='{text}'] | //button[normalize-space()='{text}']"
    with leaving(browser):
        browser.find_element(By.XPATH, path).click()


def axe() -> str:
    """The source of axe-core, the accessibility checker, fetched once from npm into a folder that git ignores."""
    folder = ROOT / ".tools/axe"
    source = folder / "package/axe.min.js"
    if not source.exists():
        npm = require("npm", "on Debian: apt-get install npm")
        folder.mkdir(parents=True, exist_ok=True)
        found = subprocess.run(
            [npm, "pack", "--silent", "axe-core@4.10.3"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if found.returncode != 0:
            unavailable(f"npm cannot fetch axe-core: {found.stderr[-300:]}")
        shutil.unpack_archive(folder / found.stdout.split()[-1], folder)
    return source.read_text(encoding="utf-8")


def findings(window: webdriver.Chrome) -> list[str]:
    """What axe-core finds on the page, by rule and place, what it cannot decide included."""
    window.execute_script(axe())
    found: dict[str, Any] = window.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
        ".then(done, error => done({violations: [{id: String(error), nodes: []}]}));"
    )
    return [
        f"{row['id']}: {[node['target'] for node in row['nodes']]}"
        for row in (*found["violations"], *found.get("incomplete", []))
    ]


def fits(window: webdriver.Chrome) -> bool:
    """Whether nothing has to be scrolled sideways."""
    wide: bool = window.execute_script(
        "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    return wide
