"""The simulator's page in Chromium: what a developer sees, in light and dark, wide and narrow, without scripts."""

from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from support.chromium import DESKTOP, PHONE, chromium, findings, fits, press
from support.simulator_history import MONICA, call, live, simulator
from zoom_simulator.options import SimulatorOptions
from zoom_simulator.testing import RunningSimulator, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@pytest.fixture
def zoom() -> Iterator[RunningSimulator]:
    with simulator() as started:
        yield started


@pytest.fixture(
    scope="module",
    params=[(DESKTOP, False), (PHONE, True), ((360, 740), False)],
    ids=["wide, light", "narrow, dark", "narrowest, light"],
)
def window(request: pytest.FixtureRequest) -> Iterator[webdriver.Chrome]:
    size, dark = request.param
    with chromium(size=size, dark=dark) as opened:
        yield opened


def told(window: webdriver.Chrome) -> str:
    return window.find_element(By.TAG_NAME, "main").text


def test_a_fresh_page_is_readable_for_everybody(zoom: RunningSimulator, window: webdriver.Chrome) -> None:
    """Before the first request axe-core finds nothing, nothing scrolls sideways, and the page leads on."""
    window.get(f"{zoom.url}/_sim/")
    assert "None is switched on" in told(window)
    assert fits(window)
    assert findings(window) == []


def test_a_used_page_is_readable_for_everybody(zoom: RunningSimulator, window: webdriver.Chrome) -> None:
    """With users, tokens, faults, meetings and reasons it is so too, whatever somebody wrote, and loads nothing from elsewhere."""
    live(zoom)
    token = zoom.connect(MONICA).access_token
    window.get(f"{zoom.url}/_sim/")
    press(window, "Reload")
    assert "refresh token was spent before (rotation)" in told(window)
    assert "and its answer is lost" in told(window)
    assert token not in window.page_source
    assert fits(window)
    assert findings(window) == []
    loaded = window.execute_script("return performance.getEntriesByType('resource').map(row => row.name)")
    assert [name for name in loaded if "favicon" not in name] == []
    assert [row for row in window.get_log("browser") if "Content Security Policy" in row["message"]] == []


def test_long_words_do_not_widen_it(zoom: RunningSimulator, window: webdriver.Chrome) -> None:
    """Topics and paths without a space wrap."""
    token = zoom.connect(MONICA).access_token
    call(
        f"{zoom.api_url}/users/me/meetings",
        "POST",
        f'{{"topic": "{"w" * 200}"}}',
        Authorization=f"Bearer {token}",
    )
    call(f"{zoom.url}/{'w.' * 140}", "GET", None)
    window.get(f"{zoom.url}/_sim/")
    assert "w" * 200 in told(window)
    assert fits(window)


def test_scripts_are_not_needed(zoom: RunningSimulator) -> None:
    """With scripts switched off the page and its links are the same."""
    live(zoom)
    with chromium(scripts=False) as window:
        window.get(f"{zoom.url}/_sim/")
        assert "refresh token was spent before (rotation)" in told(window)
        window.find_element(By.PARTIAL_LINK_TEXT, "Requests").click()
        assert window.current_url.endswith("#requests")
        assert "created meeting 81234567897" in told(window)


def test_the_app_can_be_removed(window: webdriver.Chrome) -> None:
    """A button ends what somebody granted, and the page shows that the app was told, or that it does not answer."""
    options = SimulatorOptions(port=0, webhook_url="http://127.0.0.1:1/webhooks")
    with running(options) as zoom:
        zoom.connect(MONICA)
        window.get(f"{zoom.url}/_sim/")
        press(window, "Remove the app")
        assert window.current_url.endswith("/_sim/#webhooks")
        assert "app_deauthorized" in told(window)
        assert "no: revoked" in told(window)
        assert fits(window)
        assert findings(window) == []
