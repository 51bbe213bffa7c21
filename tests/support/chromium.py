"""Control of a real Chromium browser."""

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
    """Start headless Chromium; with `scripts=False`, JavaScript is disabled."""
    binary = require("chromium", "on Debian: apt-get install chromium chromium-driver")
    driver = require("chromedriver", "on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
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
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE},
        )
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]},
        )
        yield browser
    finally:
        browser.quit()


@contextmanager
def leaving(browser: webdriver.Chrome) -> Iterator[None]:
    """At the end of the `with` block, wait until the browser has loaded a different page."""
    root = browser.find_element(By.TAG_NAME, "html")
    yield
    WebDriverWait(browser, 20, ignored_exceptions=[WebDriverException]).until(staleness_of(root))
    WebDriverWait(browser, 20, ignored_exceptions=[WebDriverException]).until(
        lambda opened: opened.find_element(By.TAG_NAME, "h1").is_displayed()
    )


def press(browser: webdriver.Chrome, text: str) -> None:
    """Click the link or button with the given text, and wait for the next page."""
    path = f"//a[normalize-space()='{text}'] | //button[normalize-space()='{text}']"
    with leaving(browser):
        browser.find_element(By.XPATH, path).click()


def axe() -> str:
    """Return the source of axe-core, the accessibility checker, downloaded once from npm into a directory ignored by git."""
    folder = ROOT / ".tools/axe"
    source = folder / "package/axe.min.js"
    if not source.exists():
        npm = require("npm", "on Debian: apt-get install npm")
        folder.mkdir(parents=True, exist_ok=True)
        result = subprocess.run(
            [npm, "pack", "--silent", "axe-core@4.10.3"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            unavailable(f"npm cannot fetch axe-core: {result.stderr[-300:]}")
        shutil.unpack_archive(folder / result.stdout.split()[-1], folder)
    return source.read_text(encoding="utf-8")


def findings(window: webdriver.Chrome) -> list[str]:
    """Return the accessibility violations of the page by rule and element, including violations that axe-core cannot confirm."""
    window.execute_script(axe())
    result: dict[str, Any] = window.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
        ".then(done, error => done({violations: [{id: String(error), nodes: []}]}));"
    )
    return [
        f"{row['id']}: {[node['target'] for node in row['nodes']]}"
        for row in (*result["violations"], *result.get("incomplete", []))
    ]


def fits(window: webdriver.Chrome) -> bool:
    """Return whether the page fits without horizontal scrolling."""
    fits_page: bool = window.execute_script(
        "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    )
    return fits_page
