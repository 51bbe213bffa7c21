"""The pages in Chromium: what people see and do, in light and dark, wide and narrow."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from support.chromium import DESKTOP, PHONE, chromium, findings, fits, leaving, press
from support.harness import BASIL, MONICA, OMAR
from zoomgate import Client
from zoomgate_server.web.pages import OUTCOMES

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@dataclass
class Service:
    """A running service, its HTTP address and that of its simulated Zoom."""

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
    environ = {"PATH": "/usr/bin:/bin", "ZOOMGATE_BRAND_NAME": "Acme Bookings"}
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        try:
            ready = zoom = None
            for line in process.stdout:
                ready = ready or re.search(r"ready grpc=(\S+) http=(\S+)", line)
                zoom = re.search(r"Zoom +(\S+) \(simulated", line)
                if ready and zoom:
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


def link(service: Service, user: str) -> str:
    """A fresh link."""
    return service.client.auth.begin_authorization(user_email=user).authorization_url


def heading(window: webdriver.Chrome) -> str:
    return window.find_element(By.TAG_NAME, "h1").text


def told(window: webdriver.Chrome) -> str:
    return window.find_element(By.TAG_NAME, "main").text


def test_a_person_connects(service: Service, window: webdriver.Chrome) -> None:
    """From the link over Zoom to the last page: who asks, for whom, who is connected, what the app may, how to end it."""
    window.get(link(service, MONICA))
    assert heading(window) == "Connect Zoom to Acme Bookings?"
    assert MONICA in told(window)
    assert fits(window)
    assert findings(window) == []
    press(window, "Continue to Zoom")
    assert window.current_url.startswith(service.zoom)
    assert "Acme" not in window.title
    assert fits(window)
    assert findings(window) == []
    press(window, "Allow")
    assert heading(window) == "You are connected"
    assert f"Connected: {MONICA}" in told(window)
    assert "Create and change your meetings" in told(window)
    assert "remove the app at Zoom" in told(window)
    assert "code=" not in window.current_url
    assert fits(window)
    assert findings(window) == []
    window.refresh()
    assert MONICA in told(window)


def test_scripts_are_not_needed(service: Service) -> None:
    """With scripts switched off everything works the same."""
    with chromium(scripts=False) as window:
        window.get(link(service, MONICA))
        press(window, "Continue to Zoom")
        press(window, "Allow")
        assert heading(window) == "You are connected"


def test_the_keyboard_is_enough(service: Service, window: webdriver.Chrome) -> None:
    """Tab reaches what can be pressed, in reading order; Enter presses it."""
    window.get(link(service, MONICA))
    window.switch_to.active_element.send_keys(Keys.TAB)
    with leaving(window):
        window.switch_to.active_element.send_keys(Keys.ENTER)
    assert window.current_url.startswith(service.zoom)
    window.find_element(By.CSS_SELECTOR, "input[type=radio]").send_keys(Keys.SPACE)
    window.switch_to.active_element.send_keys(Keys.TAB)
    with leaving(window):
        window.switch_to.active_element.send_keys(Keys.ENTER)
    assert heading(window) == "You are connected"


def test_declining_and_using_a_link_twice(service: Service, window: webdriver.Chrome) -> None:
    """Who declines is not connected; the link is used up then."""
    address = link(service, BASIL)
    window.get(address)
    press(window, "Continue to Zoom")
    press(window, "Decline")
    assert heading(window) == "You are not connected"
    assert BASIL in told(window)
    assert findings(window) == []
    window.get(address)
    assert heading(window) == "This link was used already"


def test_the_wrong_account(service: Service, window: webdriver.Chrome) -> None:
    """Signed in as somebody else, a person learns which address was asked for and what to do."""
    window.get(link(service, BASIL))
    press(window, "Continue to Zoom")
    window.find_element(By.CSS_SELECTOR, f"input[value='{OMAR}']").click()
    press(window, "Allow")
    assert heading(window) == "Another Zoom account was used"
    assert f"The link was for {BASIL}" in told(window)
    assert "Sign out of Zoom" in told(window)
    assert findings(window) == []


def test_another_browser(service: Service, window: webdriver.Chrome) -> None:
    """Without the cookie of the beginning the way ends, and says so."""
    window.get(link(service, BASIL))
    press(window, "Continue to Zoom")
    at_zoom = window.current_url
    window.get(service.http)
    window.delete_all_cookies()
    window.get(at_zoom)
    press(window, "Allow")
    assert heading(window) == "This is another browser"


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_is_told(service: Service, window: webdriver.Chrome, outcome: str) -> None:
    """What happened, what it means and what to do next, readable for everybody."""
    window.get(f"{service.http}/oauth/result?outcome={outcome}")
    assert heading(window) == OUTCOMES[outcome].title.format(app="Acme Bookings")
    assert OUTCOMES[outcome].next.format(app="Acme Bookings") in told(window)
    assert fits(window)
    assert findings(window) == []


def test_nothing_comes_from_elsewhere(service: Service, window: webdriver.Chrome) -> None:
    """The pages load no script, image, font or style from anywhere, and break no rule of their policy."""
    for path in (
        "/oauth/result?outcome=connected",
        f"/oauth/start?{link(service, MONICA).partition('?')[2]}",
    ):
        window.get(service.http + path)
        loaded = window.execute_script("return performance.getEntriesByType('resource').map(row => row.name)")
        assert [name for name in loaded if "favicon" not in name] == []
        background = window.find_element(By.TAG_NAME, "main").value_of_css_property("border-top-color")
        assert background == "rgba(11, 92, 255, 1)"
        assert [row for row in window.get_log("browser") if "Content Security Policy" in row["message"]] == []
