"""Tests for the consent pages in Chromium, in light and dark mode and at two widths."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from support.chromium import DESKTOP, PHONE, chromium, findings, fits, leaving, press
from support.harness import BASIL, MONICA, OMAR
from zoomgate import Client
from zoomgate_server.web.pages import OUTCOMES

CONNECT_URL = "https://acme.example/settings#zoom"

pytestmark = pytest.mark.timeout(180)


@dataclass
class Service:
    """A client of a running service, and the URLs of the service and the Zoom simulator."""

    client: Client
    http: str
    zoom: str


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    options = [
        item
        for name in ("listen", "http-listen", "simulator-listen")
        for item in (f"--{name}", "127.0.0.1:0")
    ]
    command = [
        sys.executable,
        "-m",
        "zoomgate_server",
        "run",
        "--data-dir",
        str(tmp_path_factory.mktemp("data")),
    ]
    environ = {
        "PATH": "/usr/bin:/bin",
        "ZOOMGATE_BRAND_NAME": "Acme Bookings",
        "ZOOMGATE_CONNECT_URL": CONNECT_URL,
    }
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        try:
            ready = zoom = None
            for line in process.stdout:
                ready = ready or re.search(r"ready grpc=(\S+) http=(\S+)", line)
                zoom = zoom or re.search(r"Zoom +(\S+) \(simulator", line)
                if "What to try next" in line:
                    break
            assert ready is not None
            assert zoom is not None
            with Client(ready.group(1)) as client:
                yield Service(client, f"http://{ready.group(2)}", zoom.group(1))
        finally:
            process.terminate()
            process.stdout.read()


@pytest.fixture(scope="module", params=[(DESKTOP, False), (PHONE, True)], ids=["wide, light", "narrow, dark"])
def window(request: pytest.FixtureRequest) -> Iterator[webdriver.Chrome]:
    size, dark = request.param
    with chromium(size=size, dark=dark) as opened:
        yield opened


def authorization_url(service: Service, user: str) -> str:
    """Return a new consent link."""
    return service.client.auth.begin_authorization(user_email=user).authorization_url


def heading(window: webdriver.Chrome) -> str:
    return window.find_element(By.TAG_NAME, "h1").text


def main_text(window: webdriver.Chrome) -> str:
    return window.find_element(By.TAG_NAME, "main").text


def test_user_connects(service: Service, window: webdriver.Chrome) -> None:
    """The consent pages show the app, the user, the permissions and how to disconnect."""
    window.get(authorization_url(service, MONICA))
    assert heading(window) == "Connect Zoom to Acme Bookings?"
    assert MONICA in main_text(window)
    assert fits(window)
    assert findings(window) == []
    press(window, "Continue to Zoom")
    assert window.current_url.startswith(service.zoom)
    assert "Acme" not in window.title
    assert fits(window)
    assert findings(window) == []
    press(window, "Allow")
    assert heading(window) == "You are connected"
    assert f"Connected: {MONICA}" in main_text(window)
    assert "Create and change your meetings" in main_text(window)
    assert "remove the app in the Zoom App Marketplace" in main_text(window)
    assert "code=" not in window.current_url
    assert fits(window)
    assert findings(window) == []
    window.refresh()
    assert MONICA in main_text(window)


def test_pages_work_without_scripts(service: Service) -> None:
    with chromium(scripts=False) as window:
        window.get(authorization_url(service, MONICA))
        press(window, "Continue to Zoom")
        press(window, "Allow")
        assert heading(window) == "You are connected"


def test_pages_can_be_used_with_the_keyboard(service: Service, window: webdriver.Chrome) -> None:
    """Tab moves through the controls in reading order, and Enter activates them."""
    window.get(authorization_url(service, MONICA))
    window.switch_to.active_element.send_keys(Keys.TAB)
    with leaving(window):
        window.switch_to.active_element.send_keys(Keys.ENTER)
    assert window.current_url.startswith(service.zoom)
    window.find_element(By.CSS_SELECTOR, "input[type=radio]").send_keys(Keys.SPACE)
    window.switch_to.active_element.send_keys(Keys.TAB)
    with leaving(window):
        window.switch_to.active_element.send_keys(Keys.ENTER)
    assert heading(window) == "You are connected"


def test_declined_link_cannot_be_used_again(service: Service, window: webdriver.Chrome) -> None:
    url = authorization_url(service, BASIL)
    window.get(url)
    press(window, "Continue to Zoom")
    press(window, "Decline")
    assert heading(window) == "The request was declined in Zoom"
    assert BASIL in main_text(window)
    assert findings(window) == []
    window.get(url)
    assert heading(window) == "This link has already been used"


def test_different_zoom_account_is_rejected(service: Service, window: webdriver.Chrome) -> None:
    """The page shows the email address for which the link was created, and the next step."""
    window.get(authorization_url(service, BASIL))
    press(window, "Continue to Zoom")
    window.find_element(By.CSS_SELECTOR, f"input[value='{OMAR}']").click()
    press(window, "Allow")
    assert heading(window) == "You used a different Zoom account"
    assert f"The link was for {BASIL}" in main_text(window)
    assert "Sign out of Zoom" in main_text(window)
    assert findings(window) == []


def test_user_connects_a_zoom_account_with_a_different_address(
    service: Service, window: webdriver.Chrome
) -> None:
    """Both addresses are shown before and after the consent. A second user cannot connect the same Zoom account."""
    office, other = "basil@office.example", "basil@elsewhere.example"
    for user, title in ((office, "You are connected"), (other, "This Zoom account is already connected")):
        started = service.client.auth.begin_authorization(user_email=user, zoom_email=BASIL)
        window.get(started.authorization_url)
        assert f"the Zoom account of {BASIL} and use it for its user {user}" in main_text(window)
        assert f"sign in to Zoom with {BASIL}" in main_text(window)
        assert fits(window)
        assert findings(window) == []
        press(window, "Continue to Zoom")
        window.find_element(By.CSS_SELECTOR, f"input[value='{BASIL}']").click()
        press(window, "Allow")
        assert heading(window) == title
        assert user in main_text(window)
        assert BASIL in main_text(window)
        assert fits(window)
        assert findings(window) == []
    assert office not in main_text(window)
    service.client.auth.delete_connection(user_email=office)


def test_consent_without_the_cookie_is_rejected(service: Service, window: webdriver.Chrome) -> None:
    """The page explains that the link must be opened and completed in the same browser."""
    window.get(authorization_url(service, BASIL))
    press(window, "Continue to Zoom")
    at_zoom = window.current_url
    window.get(service.http)
    window.delete_all_cookies()
    window.get(at_zoom)
    press(window, "Allow")
    assert heading(window) == "Please use the same browser"


def test_user_who_added_the_app_in_the_marketplace_is_led_to_the_application(
    service: Service, window: webdriver.Chrome
) -> None:
    """The page has a button that leads to the configured page, and does not contain Zoom's code."""
    window.get(f"{service.http}/oauth/callback?code=zoom-code")
    assert heading(window) == "One more step to connect Acme Bookings"
    assert "zoom-code" not in window.current_url
    link = window.find_element(By.LINK_TEXT, "Go to Acme Bookings")
    assert link.get_attribute("href") == CONNECT_URL
    assert fits(window)
    assert findings(window) == []


def test_error_without_state_is_shown_as_text(service: Service, window: webdriver.Chrome) -> None:
    description = quote("<img src=x onerror=alert(1)> " + "W" * 300)
    window.get(f"{service.http}/oauth/callback?error=invalid_scope&error_description={description}")
    assert heading(window) == "Zoom did not connect your account"
    assert "invalid_scope: <img src=x onerror=alert(1)> WWW" in main_text(window)
    assert fits(window)
    assert findings(window) == []


def test_home_page_is_accessible(service: Service, window: webdriver.Chrome) -> None:
    """The page leads to the Zoom simulator."""
    window.get(service.http)
    assert heading(window) == "Zoomgate is running"
    assert fits(window)
    assert findings(window) == []
    press(window, "Zoom simulator")
    assert window.current_url.startswith(service.zoom)


def test_result_is_not_shown_in_a_different_browser(service: Service, window: webdriver.Chrome) -> None:
    window.get(authorization_url(service, MONICA))
    press(window, "Continue to Zoom")
    press(window, "Allow")
    window.delete_all_cookies()
    window.refresh()
    assert heading(window) == "This result is not available"
    assert MONICA not in main_text(window)


@pytest.mark.parametrize("outcome", [name for name in OUTCOMES if name not in ("connected", "pending")])
def test_every_outcome_has_an_accessible_page(
    service: Service, window: webdriver.Chrome, outcome: str
) -> None:
    """The page shows the title and the next step."""
    window.get(f"{service.http}/oauth/result?outcome={outcome}")
    assert heading(window) == OUTCOMES[outcome].title.format(app="Acme Bookings")
    assert OUTCOMES[outcome].next.format(app="Acme Bookings") in main_text(window)
    assert fits(window)
    assert findings(window) == []


def test_pages_load_no_external_resources(service: Service, window: webdriver.Chrome) -> None:
    """The pages load no script, image, font or stylesheet, and do not violate their Content-Security-Policy."""
    for path in (
        "/oauth/result?outcome=declined",
        f"/oauth/start?{authorization_url(service, MONICA).partition('?')[2]}",
    ):
        window.get(service.http + path)
        loaded = window.execute_script("return performance.getEntriesByType('resource').map(row => row.name)")
        assert [name for name in loaded if "favicon" not in name] == []
        background = window.find_element(By.TAG_NAME, "main").value_of_css_property("border-top-color")
        assert background == "rgba(11, 92, 255, 1)"
        assert [row for row in window.get_log("browser") if "Content Security Policy" in row["message"]] == []
