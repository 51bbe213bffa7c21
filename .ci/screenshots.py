"""Generator of the images in docs/images: pages rendered by Chromium, and terminal output rendered by rich."""

import base64
import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs/images"
MONICA, OMAR = "monica@example.com", "omar@example.com"
sys.path.insert(0, str(ROOT / "tests"))

from support.chromium import DESKTOP, PHONE, chromium, press  # noqa: E402 - requires the path added above
from support.simulator_history import generate_activity, simulator  # noqa: E402
from zoomgate import Client  # noqa: E402


def save_screenshot(window: Chrome, name: str, max_height: int = 10_000) -> None:
    """Save a screenshot of the page, cropped to the page's content and to at most `max_height` pixels."""
    height = window.execute_script(
        "return document.querySelector('body').lastElementChild.getBoundingClientRect().bottom"
    )
    clip = {
        "x": 0,
        "y": 0,
        "width": window.execute_script("return innerWidth"),
        "height": min(height + 24, max_height),
        "scale": 1,
    }
    shot = window.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    (IMAGES / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


def capture_consent_pages(client: Client) -> None:
    """Capture the consent pages, on a desktop in light mode and on a phone in dark mode."""
    for size, dark, suffix in ((DESKTOP, False, ""), (PHONE, True, "-phone")):
        with chromium(size=size, dark=dark) as window:
            window.get(client.auth.begin_authorization(user_email=MONICA).authorization_url)
            save_screenshot(window, f"start{suffix}")
            press(window, "Continue to Zoom")
            save_screenshot(window, f"consent{suffix}")
            press(window, "Allow")
            save_screenshot(window, f"connected{suffix}")
            window.get(client.auth.begin_authorization(user_email=MONICA).authorization_url)
            press(window, "Continue to Zoom")
            window.find_element(By.CSS_SELECTOR, f"input[value='{OMAR}']").click()
            press(window, "Allow")
            save_screenshot(window, f"other-account{suffix}")


def capture_simulator_page() -> None:
    """Capture the simulator's status page. Port 8090, which the documentation uses, must be free."""
    with simulator(8090) as zoom:
        generate_activity(zoom)
        for size, dark, suffix in ((DESKTOP, False, ""), (PHONE, True, "-phone")):
            with chromium(size=size, dark=dark) as window:
                window.get(f"{zoom.url}/_sim/")
                save_screenshot(window, f"simulator{suffix}", max_height=2300)


def capture_terminal(name: str, server: str, *commands: str) -> None:
    """Run commands and save their output as an SVG image."""
    console = Console(record=True, width=104, file=io.StringIO(), force_terminal=True)
    for command in commands:
        console.print(Text.assemble(("$ ", "dim"), (command, "bold")))
        process = subprocess.run(
            ["sh", "-c", command],
            env={"PATH": f"{ROOT / '.venv/bin'}:/usr/bin:/bin", "ZOOMGATE_SERVER": server},
            capture_output=True,
            text=True,
            check=False,
        )
        console.print(Text.from_ansi((process.stdout + process.stderr).rstrip()), highlight=False)
        console.print()
    svg = console.export_svg(title="zoomgate", unique_id=name)
    # remove the web font that rich's template loads, so that the browser's monospaced font is used
    (IMAGES / f"{name}.svg").write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))


def main() -> None:
    """Start the service and the simulator, and generate all images."""
    IMAGES.mkdir(exist_ok=True)
    capture_simulator_page()
    with tempfile.TemporaryDirectory() as directory:
        command = [str(ROOT / ".venv/bin/zoomgate"), "run", "--data-dir", f"{directory}/data"]
        environ = {"PATH": "/usr/bin:/bin", "ZOOMGATE_BRAND_NAME": "Acme Bookings"}
        for name in ("listen", "http-listen", "simulator-listen"):
            command += [f"--{name}", "127.0.0.1:0"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ, cwd=directory
        ) as process:
            assert process.stdout is not None
            ready = next(match for line in process.stdout if (match := re.search(r"ready grpc=(\S+)", line)))
            try:
                with Client(ready.group(1)) as client:
                    capture_consent_pages(client)
                capture_terminal(
                    "terminal",
                    ready.group(1),
                    'zoomgate meetings create monica@example.com --topic "First meeting"',
                    "zoomgate proxy get monica@example.com /users/me",
                )
                capture_terminal("help", ready.group(1), "zoomgate --help")
            finally:
                process.terminate()
                process.stdout.read()


if __name__ == "__main__":
    main()
