"""Tests for the simulator's overview page in Chromium, in light and dark mode, at several widths, and without scripts."""

from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from support.chromium import DESKTOP, PHONE, chromium, findings, fits, press
from support.simulator_history import MONICA, call, generate_activity, simulator
from zoom_simulator.options import SimulatorOptions
from zoom_simulator.testing import RunningSimulator, running

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def zoom() -> Iterator[RunningSimulator]:
    with simulator() as running_simulator:
        yield running_simulator


@pytest.fixture(
    scope="module",
    params=[(DESKTOP, False), (PHONE, True), ((360, 740), False)],
    ids=["wide, light", "narrow, dark", "narrowest, light"],
)
def window(request: pytest.FixtureRequest) -> Iterator[webdriver.Chrome]:
    size, dark = request.param
    with chromium(size=size, dark=dark) as browser:
        yield browser


def page_text(window: webdriver.Chrome) -> str:
    return window.find_element(By.TAG_NAME, "main").text


def test_fresh_page_is_accessible(zoom: RunningSimulator, window: webdriver.Chrome) -> None:
    """Check that axe-core reports no violations, and that nothing scrolls horizontally."""
    window.get(f"{zoom.url}/_sim/")
    assert "No active faults" in page_text(window)
    assert fits(window)
    assert findings(window) == []


def test_used_page_is_accessible(zoom: RunningSimulator, window: webdriver.Chrome) -> None:
    """With users, tokens, faults, meetings and untrusted text, the page is accessible and loads nothing from other servers."""
    generate_activity(zoom)
    token = zoom.connect(MONICA).access_token
    window.get(f"{zoom.url}/_sim/")
    press(window, "Reload")
    assert "refresh token was already used (rotation)" in page_text(window)
    assert "but its response was dropped" in page_text(window)
    assert token not in window.page_source
    assert fits(window)
    assert findings(window) == []
    loaded = window.execute_script("return performance.getEntriesByType('resource').map(row => row.name)")
    assert [name for name in loaded if "favicon" not in name] == []
    assert [row for row in window.get_log("browser") if "Content Security Policy" in row["message"]] == []


def test_requests_are_compact(zoom: RunningSimulator, window: webdriver.Chrome) -> None:
    """The list is long: also on narrow screens, several values share a line."""
    generate_activity(zoom)
    window.get(f"{zoom.url}/_sim/")
    heights: list[float] = window.execute_script(
        "return [...document.querySelectorAll('[aria-labelledby=requests] tbody tr')].map(row => row.clientHeight)"
    )
    assert heights
    assert sum(heights) / len(heights) < 120


def test_buttons_start_and_end_a_meeting(zoom: RunningSimulator, window: webdriver.Chrome) -> None:
    """The page shows the status, and returns to the list of meetings."""
    token = zoom.connect(MONICA).access_token
    call(f"{zoom.api_url}/users/me/meetings", "POST", "{}", Authorization=f"Bearer {token}")
    window.get(f"{zoom.url}/_sim/")
    press(window, "Start")
    assert window.current_url.endswith("/_sim/#meetings")
    assert "started" in page_text(window)
    press(window, "End")
    assert "1; 1 joined the latest" in page_text(window)
    press(window, "Play")
    assert "2; 1 joined the latest" in page_text(window)
    assert fits(window)
    assert findings(window) == []


def test_long_words_wrap(zoom: RunningSimulator, window: webdriver.Chrome) -> None:
    """Long topics and paths without spaces do not widen the page."""
    token = zoom.connect(MONICA).access_token
    call(
        f"{zoom.api_url}/users/me/meetings",
        "POST",
        f'{{"topic": "{"w" * 200}"}}',
        Authorization=f"Bearer {token}",
    )
    call(f"{zoom.url}/{'w.' * 140}", "GET", None)
    window.get(f"{zoom.url}/_sim/")
    assert "w" * 200 in page_text(window)
    assert fits(window)


def test_page_works_without_scripts(zoom: RunningSimulator) -> None:
    generate_activity(zoom)
    with chromium(scripts=False) as window:
        window.get(f"{zoom.url}/_sim/")
        assert "refresh token was already used (rotation)" in page_text(window)
        window.find_element(By.PARTIAL_LINK_TEXT, "Requests").click()
        assert window.current_url.endswith("#requests")
        assert "created meeting 81234567897" in page_text(window)


def test_button_removes_the_app(window: webdriver.Chrome) -> None:
    """The button revokes the user's grant, and the page lists the webhook event even if the app does not respond to the webhook."""
    options = SimulatorOptions(port=0, webhook_url="http://127.0.0.1:1/webhooks")
    with running(options) as zoom:
        zoom.connect(MONICA)
        window.get(f"{zoom.url}/_sim/")
        press(window, "Remove the app")
        assert window.current_url.endswith("/_sim/#webhooks")
        assert "app_deauthorized" in page_text(window)
        assert "no: revoked" in page_text(window)
        assert fits(window)
        assert findings(window) == []
