"""The consent page."""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from html import escape

from zoom_simulator.options import SimulatedUser

_STYLE = """
:root{color-scheme:light dark;--text:#1b1b1f;--soft:#53535c;--page:#f4f4f6;--card:#fff;--line:#8a8a94}
@media (prefers-color-scheme:dark){:root{--text:#ececf1;--soft:#b0b0ba;--page:#131316;--card:#1f1f24;--line:#777782}}
*{box-sizing:border-box}
body{margin:0;font:1.0625rem/1.55 system-ui,sans-serif;color:var(--text);background:var(--page);padding:clamp(1rem,6vh,4rem) 1rem 2rem}
main{max-width:34rem;margin:0 auto;background:var(--card);border:1px dashed var(--line);border-radius:.75rem;
padding:clamp(1.25rem,5vw,2.25rem)}
h1{font-size:1.4rem;line-height:1.25;margin:.25rem 0 1rem;text-wrap:balance}h2{font-size:1rem;margin:1.25rem 0 .25rem}
ul{margin:.25rem 0;padding-left:1.25rem}code{overflow-wrap:anywhere}.note{color:var(--soft);margin:0}
fieldset{border:1px solid var(--line);border-radius:.5rem;margin:1rem 0;padding:.5rem 1rem}legend{font-weight:600;padding:0 .4rem}
label{display:block;padding:.45rem 0;overflow-wrap:anywhere}
button{font:inherit;font-weight:600;padding:.65rem 1.4rem;margin:1rem .6rem 0 0;border-radius:.5rem;border:1px solid var(--text);
background:transparent;color:var(--text);cursor:pointer}
button[value=allow]{background:var(--text);color:var(--card)}
button:focus-visible,input:focus-visible{outline:3px solid var(--text);outline-offset:3px}
"""

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; base-uri 'none';"
        " frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


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
        '<p class="note">Simulated Zoom on your own machine; no real account is involved</p>'
        f"<h1>Allow the app <q>{escape(app)}</q> to use a Zoom account?</h1>"
        f'<form method="post"><fieldset><legend>Who are you at Zoom?</legend>{choices}</fieldset>'
        f"<h2>The app asks for</h2><ul>{listed}</ul>{fields}"
        '<button name="decision" value="allow">Allow</button><button name="decision" value="decline">Decline</button>'
        "</form></main></body></html>"
    )
