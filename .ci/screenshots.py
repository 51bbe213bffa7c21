"""Makes the pictures of the documentation anew, from the real thing: pages in Chromium, commands in a terminal drawn by rich."""

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

from support.chromium import DESKTOP, PHONE, chromium, press  # noqa: E402 - found by the line above
from support.simulator_history import generate_activity, simulator  # noqa: E402
from zoomgate import Client  # noqa: E402


def picture(window: Chrome, name: str, most: int = 10_000) -> None:
    """Keep what the window shows, cut at the end of the page or after so many pixels."""
    height = window.execute_script(
        "return document.querySelector('body').lastElementChild.getBoundingClientRect().bottom"
    )
    image = {
        "x": 0,
        "y": 0,
        "width": window.execute_script("return innerWidth"),
        "height": min(height + 24, most),
        "scale": 1,
    }
    shot = window.execute_cdp_cmd("Page.captureScreenshot", {"clip": image, "captureBeyondViewport": True})
    (IMAGES / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


def pages(client: Client) -> None:
    """The pages that people see, wide and light, narrow and dark."""
    for size, dark, suffix in ((DESKTOP, False, ""), (PHONE, True, "-phone")):
        with chromium(size=size, dark=dark) as window:
            window.get(client.auth.begin_authorization(user_email=MONICA).authorization_url)
            picture(window, f"start{suffix}")
            press(window, "Continue to Zoom")
            picture(window, f"consent{suffix}")
            press(window, "Allow")
            picture(window, f"connected{suffix}")
            window.get(client.auth.begin_authorization(user_email=MONICA).authorization_url)
            press(window, "Continue to Zoom")
            window.find_element(By.CSS_SELECTOR, f"input[value='{OMAR}']").click()
            press(window, "Allow")
            picture(window, f"other-account{suffix}")


def simulator_page() -> None:
    """What the simulated Zoom shows of itself, on the port of the documentation, which has to be free."""
    with simulator(8090) as zoom:
        generate_activity(zoom)
        for size, dark, suffix in ((DESKTOP, False, ""), (PHONE, True, "-phone")):
            with chromium(size=size, dark=dark) as window:
                window.get(f"{zoom.url}/_sim/")
                picture(window, f"simulator{suffix}", most=2300)


def terminal(name: str, server: str, *commands: str) -> None:
    """What commands print, as a drawing."""
    console = Console(record=True, width=104, file=io.StringIO(), force_terminal=True)
    for command in commands:
        console.print(Text.assemble(("$ ", "dim"), (command, "bold")))
        done = subprocess.run(
            ["sh", "-c", command],
            env={"PATH": f"{ROOT / '.venv/bin'}:/usr/bin:/bin", "ZOOMGATE_SERVER": server},
            capture_output=True,
            text=True,
            check=False,
        )
        console.print(Text.from_ansi((done.stdout + done.stderr).rstrip()), highlight=False)
        console.print()
    drawing = console.export_svg(title="zoomgate", unique_id=name)
    # the font comes from elsewhere in rich's template; any monospaced one of the reader's does
    (IMAGES / f"{name}.svg").write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawing, flags=re.DOTALL))


def main() -> None:
    """Start everything, and take the pictures."""
    IMAGES.mkdir(exist_ok=True)
    simulator_page()
    with tempfile.TemporaryDirectory() as folder:
        command = [str(ROOT / ".venv/bin/zoomgate"), "run", "--data-dir", f"{folder}/data"]
        environ = {"PATH": "/usr/bin:/bin", "ZOOMGATE_BRAND_NAME": "Acme Bookings"}
        for name in ("listen", "http-listen", "simulator-listen"):
            command += [f"--{name}", "127.0.0.1:0"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ, cwd=folder
        ) as process:
            assert process.stdout is not None
            ready = next(found for line in process.stdout if (found := re.search(r"ready grpc=(\S+)", line)))
            try:
                with Client(ready.group(1)) as client:
                    pages(client)
                terminal(
                    "terminal",
                    ready.group(1),
                    "zoomgate connections list",
                    "zoomgate meetings create monica@example.com --topic 'First meeting' --start 2030-01-07T09:00:00Z",
                    "zoomgate proxy get monica@example.com /users/nobody",
                    "zoomgate token check omar@example.com",
                )
                terminal("help", ready.group(1), "zoomgate --help")
            finally:
                process.terminate()
                process.stdout.read()


if __name__ == "__main__":
    main()
