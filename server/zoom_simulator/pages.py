"""The consent page."""

from collections.abc import Sequence
from html import escape

from zoom_simulator.options import SimulatedUser

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_STYLE = (
    ":root{color-scheme:light dark}body{font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:10vh auto;padding:0 1.25rem;"
    "color:#1b1b1f;background:#fff}h1{font-size:1.5rem}label{display:block;padding:.4rem 0}button{font:inherit;padding:.5rem 1.2rem;"
    "margin:1rem .6rem 0 0}small{color:#55555e}"
    "@media (prefers-color-scheme:dark){body{color:#ececf1;background:#17171a}small{color:#a9a9b4}}"
)


def consent(users: Sequence[SimulatedUser], scopes: Sequence[str], hidden: dict[str, str], app: str) -> str:
    """Give the page on which somebody chooses who they are and allows or declines."""
    choices = "".join(
        f'<label><input type="radio" name="user" value="{escape(user.email)}"{" checked" if index == 0 else ""}> '
        f"{escape(f'{user.first_name} {user.last_name}'.strip())} &lt;{escape(user.email)}&gt;</label>"
        for index, user in enumerate(users)
    )
    fields = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in hidden.items()
    )
    listed = "".join(f"<li><code>{escape(scope)}</code></li>" for scope in scopes)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Simulated Zoom: allow {escape(app)}?</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>Allow the app <q>{escape(app)}</q> to use a Zoom account?</h1>"
        "<p><small>This is a simulated Zoom on your own machine. No real account is involved.</small></p>"
        f'<form method="post"><fieldset><legend>Who are you at Zoom?</legend>{choices}</fieldset>'
        f"<p>The app asks for:</p><ul>{listed}</ul>{fields}"
        '<button name="decision" value="allow">Allow</button><button name="decision" value="decline">Decline</button>'
        "</form></main></body></html>"
    )
