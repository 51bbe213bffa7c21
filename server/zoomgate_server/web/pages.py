"""The pages that a person sees before and after Zoom.

They are plain HTML without scripts and third-party content. What happened is told by an outcome from a closed set; besides, a page shows
the address that the consent is for and what was granted, escaped, and only to the browser that holds the link or the cookie.
"""

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape

from zoomgate_server.web.scopes import in_words


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a page says. `{app}` stands for the name of the app.

    Attributes:
        status: HTTP status.
        title: What happened, in a few words.
        text: What it means.
        next: What to do next.
    """

    status: int
    title: str
    text: str
    next: str


_NEW_LINK = "Go back to where you got the link and ask for a new one."

OUTCOMES = {
    "connected": Outcome(
        200,
        "You are connected",
        "{app} can now act for you at Zoom.",
        "You can close this page.",
    ),
    "declined": Outcome(
        200,
        "You are not connected",
        "The request was declined at Zoom, so {app} got no access and nothing was stored.",
        f"If that was a mistake: {_NEW_LINK[0].lower()}{_NEW_LINK[1:]}",
    ),
    "link_expired": Outcome(
        400,
        "This link no longer works",
        "A link works for 10 minutes, and this one is older, or was not copied whole. Nothing was changed.",
        _NEW_LINK,
    ),
    "link_used": Outcome(
        400,
        "This link was used already",
        "A link works once. If it was you who used it, the page that opened then says how it ended. Nothing was changed now.",
        _NEW_LINK,
    ),
    "other_browser": Outcome(
        400,
        "This is another browser",
        "The connection was begun in another browser, or cookies are switched off here. So that nobody can finish what somebody else"
        " began, it stops here. Nothing was changed.",
        "Open the link in the browser that you want to use for all of it, and allow cookies of this page.",
    ),
    "other_user": Outcome(
        409,
        "Another Zoom account was used",
        "You are signed in to Zoom with an account that has another address than the one that was asked for. Nothing was connected.",
        "Sign out of Zoom, ask for a new link, and sign in with the right account.",
    ),
    "code_refused": Outcome(
        400,
        "Zoom did not confirm the connection",
        "Zoom refused the code that it had sent, most often since too much time went by. An earlier connection is untouched.",
        _NEW_LINK,
    ),
    "try_later": Outcome(
        503,
        "Please try again in a moment",
        "Zoom or this service could not be reached. Nothing was lost.",
        f"Wait a minute. {_NEW_LINK}",
    ),
    "misconfigured": Outcome(
        500,
        "{app} is not set up correctly",
        "Zoom refused the app itself, not you. There is nothing that you can do here.",
        "Tell whoever runs {app}.",
    ),
    "bad_request": Outcome(
        400,
        "This address is not complete",
        "Something is missing in the address, or appears twice.",
        "Open the link again exactly as you got it.",
    ),
}
"""Every outcome that a page can tell, by the name in its address."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "zoomgate",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_STYLE = """
:root{color-scheme:light dark;--text:#1b1b1f;--soft:#53535c;--page:#f4f4f6;--card:#fff;--line:#d9d9df}
@media (prefers-color-scheme:dark){:root{--text:#ececf1;--soft:#b0b0ba;--page:#131316;--card:#1f1f24;--line:#3a3a42}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;font:1.0625rem/1.55 system-ui,sans-serif;color:var(--text);background:var(--page);
display:flex;flex-direction:column;align-items:center;padding:clamp(1rem,8vh,6rem) 1rem 2rem}
main{width:100%;max-width:32rem;background:var(--card);border:1px solid var(--line);border-top:.375rem solid BRAND;border-radius:.75rem;
padding:clamp(1.25rem,5vw,2.25rem)}
h1{font-size:1.5rem;line-height:1.25;margin:.25rem 0 1rem;text-wrap:balance}h2{font-size:1rem;margin:1.5rem 0 .25rem}p{margin:.75rem 0}
ul{margin:.25rem 0;padding-left:1.25rem}strong,code{overflow-wrap:anywhere}
.app{color:var(--soft);font-weight:600;margin:0}
.go{display:inline-block;margin:1rem 0 .25rem;padding:.75rem 1.5rem;border-radius:.5rem;background:BRAND;color:INK;font-weight:600;
text-decoration:none}
.go:focus-visible{outline:3px solid var(--text);outline-offset:3px}
footer{width:100%;max-width:32rem;margin-top:1.25rem;color:var(--soft);font-size:.875rem}
@media (forced-colors:active){.go{border:2px solid}}
"""


class Pages:
    """Makes the pages in the colours of one organisation.

    Args:
        brand_name: Whose app it is, as people know it.
        brand_color: #rrggbb; text on it is black or white, whichever reads better.
    """

    def __init__(self, *, brand_name: str, brand_color: str) -> None:
        self._app = brand_name
        ink = "#ffffff" if _luminance(brand_color) < _EQUAL_LUMINANCE else "#000000"
        self._style = _STYLE.replace("BRAND", brand_color).replace("INK", ink)
        digest = b64encode(hashlib.sha256(self._style.encode()).digest()).decode()
        self.headers: Mapping[str, str] = _HEADERS | {
            "Content-Security-Policy": (
                f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            )
        }

    def start(self, user_email: str, way: str) -> str:
        """Give the page before Zoom: who asks, for whom, and what comes next.

        Args:
            user_email: Whom the consent is for.
            way: The address that leads on to Zoom.
        """
        return self._page(
            f"Connect Zoom to {self._app}?",
            f"<p>{_strong(self._app)} asks to use the Zoom account of {_strong(user_email)}.</p>"
            "<p>Next you sign in at Zoom with that address. Zoom shows what the app may do, and you allow it or decline.</p>"
            f'<p><a class="go" href="{escape(way)}">Continue to Zoom</a></p>'
            "<h2>Is that not your address, or did you not ask for this?</h2>"
            "<p>Then close this page. Nothing has happened yet, and nothing will.</p>",
        )

    def result(self, outcome: Outcome, user_email: str = "", scopes: Iterable[str] = ()) -> str:
        """Give the page of an outcome.

        Args:
            outcome: What happened.
            user_email: Whom the consent was for, if this browser may know.
            scopes: What was granted.
        """
        parts = [f"<p>{self._words(outcome.text)}</p>"]
        if user_email and outcome.status == 200:
            who = "Connected" if scopes else "Asked for"
            parts.append(f"<p>{who}: {_strong(user_email)}</p>")
        elif user_email:
            parts.append(f"<p>The link was for {_strong(user_email)}.</p>")
        parts.append(f"<p>{self._words(outcome.next)}</p>")
        if scopes:
            parts.append(self._granted(scopes))
        if outcome is OUTCOMES["connected"]:
            parts.append(
                "<h2>To end it</h2>"
                f"<p>Disconnect in {escape(self._app)}, or remove the app at Zoom: in the App Marketplace under Manage, Added Apps.</p>"
            )
        return self._page(outcome.title.format(app=self._app), "".join(parts))

    def _granted(self, scopes: Iterable[str]) -> str:
        told, others = in_words(scopes)
        items = "".join(f"<li>{escape(text)}</li>" for text in told)
        if not others:
            return f"<h2>{escape(self._app)} may</h2><ul>{items}</ul>"
        rest = "".join(f"<li><code>{escape(scope)}</code></li>" for scope in others)
        more = f"<p>and, in Zoom's own words:</p><ul>{rest}</ul>" if told else f"<ul>{rest}</ul>"
        return f"<h2>{escape(self._app)} may</h2>{f'<ul>{items}</ul>' if told else ''}{more}"

    def _words(self, text: str) -> str:
        return escape(text).replace("{app}", escape(self._app))

    def _page(self, title: str, body: str) -> str:
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{escape(title)}</title><style>{self._style}</style></head>"
            f'<body><main><p class="app">{escape(self._app)}</p><h1>{escape(title)}</h1>{body}</main>'
            f"<footer>Your Zoom password is never seen by {escape(self._app)}; it stays with Zoom.</footer></body></html>"
        )


_EQUAL_LUMINANCE = 0.179
"""Where black and white text read equally well on a colour: both have a contrast of 4.58 then, more than AA asks for."""


def _luminance(color: str) -> float:
    """Give the relative luminance of #rrggbb (https://www.w3.org/TR/WCAG22/#dfn-relative-luminance)."""
    channels = [int(color[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _strong(text: str) -> str:
    return f"<strong>{escape(text)}</strong>"
