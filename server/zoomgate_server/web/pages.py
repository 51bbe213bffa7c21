"""Pages shown to a user before and after the user consents in Zoom.

The pages are plain HTML without scripts or third-party content. The result page shows one of a closed set of outcomes. The user's email
address and the granted scopes are escaped, and shown only to the browser that has the link or the cookie.
"""

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape

from zoomgate_server.web.scopes import describe_scopes


@dataclass(frozen=True, slots=True)
class Outcome:
    """The text of a result page. `{app}` is replaced by the name of the app."""

    status: int
    title: str
    text: str
    next: str


_NEW_LINK = "Go back to where you got the link and request a new one."
_RIGHT_ACCOUNT = "Sign out of Zoom, request a new link, and sign in with the right account."
_LINK_FROM_ADMINISTRATOR = "To connect your Zoom account, use a link from {app} or its administrator."

OUTCOMES = {
    "connected": Outcome(
        200,
        "You are connected",
        "{app} can now use your Zoom account.",
        "You can close this page.",
    ),
    "pending": Outcome(
        202,
        "You will be connected soon",
        "Zoom has confirmed your consent, but has not sent all the information yet. {app} connects your Zoom account automatically.",
        "You do not have to do anything. Reload this page in a minute to see the result.",
    ),
    "details_unavailable": Outcome(
        200,
        "The details are not available",
        "If you have just allowed access in Zoom, {app} has received it. This page cannot show the result.",
        "You do not have to do anything, and can close this page.",
    ),
    "app_added": Outcome(
        200,
        "One more step to connect {app}",
        "You added the app in the Zoom App Marketplace. {app} is not connected to your Zoom account yet.",
        _LINK_FROM_ADMINISTRATOR,
    ),
    "declined": Outcome(
        200,
        "The request was declined in Zoom",
        "Nothing was changed. If you were already connected, you still are.",
        f"Declined by mistake? {_NEW_LINK}",
    ),
    "zoom_error": Outcome(
        400,
        "Zoom did not connect your account",
        "Zoom returned an error. {app} was not connected, and nothing was stored.",
        _LINK_FROM_ADMINISTRATOR,
    ),
    "link_expired": Outcome(
        400,
        "This link no longer works",
        "Links are valid for 10 minutes. This one has expired or was not copied completely. Nothing was changed.",
        _NEW_LINK,
    ),
    "link_used": Outcome(
        400,
        "This link has already been used",
        "Each link can be used only once. If you used the link yourself, the page that opened shows the result. Nothing was changed.",
        _NEW_LINK,
    ),
    "other_browser": Outcome(
        400,
        "Please use the same browser",
        "You started in a different browser, or this browser blocks cookies. For your security, finish in the browser in which you started."
        " Nothing was changed.",
        "Open the link again in the browser you want to use, and allow cookies for this site.",
    ),
    "other_user": Outcome(
        409,
        "You used a different Zoom account",
        "The Zoom account you signed in with has a different email address, so {app} was not connected to it. The access that you"
        " allowed is revoked. If you were already connected, you still are.",
        _RIGHT_ACCOUNT,
    ),
    "other_user_connected": Outcome(
        409,
        "You used a different Zoom account",
        "The Zoom account you signed in with has a different email address, and {app} already uses it. That connection remains, and no"
        " other connection was created.",
        _RIGHT_ACCOUNT,
    ),
    "already_connected": Outcome(
        409,
        "This Zoom account is already connected",
        "{app} already uses the Zoom account you signed in with for a user with a different email address. That user remains connected.",
        "Use {app} with that address, or have that user disconnected first and then request a new link.",
    ),
    "disconnected": Outcome(
        409,
        "You are not connected",
        "{app} was disconnected from your Zoom account after you signed in.",
        _NEW_LINK,
    ),
    "result_unavailable": Outcome(
        404,
        "This result is not available",
        "Results are shown for 10 minutes, and only in the browser in which you allowed access.",
        "If you have just allowed access, reload this page. Otherwise, you can close it.",
    ),
    "code_refused": Outcome(
        400,
        "Zoom did not confirm the connection",
        "This usually means that too much time passed after you signed in to Zoom. If you were already connected, you still are.",
        _NEW_LINK,
    ),
    "try_later": Outcome(
        503,
        "Please try again in a moment",
        "Zoom or this service is temporarily unavailable. Nothing was lost.",
        f"Wait a minute. {_NEW_LINK}",
    ),
    "misconfigured": Outcome(
        500,
        "{app} is not set up correctly",
        "Zoom rejected the app's configuration. The problem is not with your account.",
        "Contact the administrator of {app}.",
    ),
    "bad_request": Outcome(
        400,
        "This address is incomplete",
        "Part of the address is missing or appears twice.",
        "Open the link again exactly as you received it.",
    ),
}
"""All outcomes by their names in the URL of the result page."""

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
a{color:inherit}.go:focus-visible,a:focus-visible{outline:3px solid var(--text);outline-offset:3px}
footer{width:100%;max-width:32rem;margin-top:1.25rem;color:var(--soft);font-size:.875rem}
@media (forced-colors:active){.go{border:2px solid}}
"""


class Pages:
    """Renderer of the pages with the name and color of one brand.

    Args:
        brand_color: #rrggbb. Text on it is black or white, whichever has the higher contrast.
        connect_url: The page where users connect Zoom, or empty. All result pages link to it.
    """

    def __init__(self, *, brand_name: str, brand_color: str, connect_url: str) -> None:
        self._app = brand_name
        self._connect_url = connect_url
        self._footer = f"<footer>{escape(brand_name)} never sees your Zoom password. You enter it only on Zoom's website.</footer>"
        ink = "#ffffff" if _luminance(brand_color) < _EQUAL_LUMINANCE else "#000000"
        self._style = _STYLE.replace("BRAND", brand_color).replace("INK", ink)
        digest = b64encode(hashlib.sha256(self._style.encode()).digest()).decode()
        self.headers: Mapping[str, str] = _HEADERS | {
            "Content-Security-Policy": (
                f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            )
        }

    def start(self, user_email: str, zoom_email: str, continue_url: str) -> str:
        """Return the page shown before the user continues to Zoom. `zoom_email` is empty if it does not differ from `user_email`."""
        account = _strong(zoom_email or user_email)
        purpose = f" and use it for its user {_strong(user_email)}" if zoom_email else ""
        sign_in = account if zoom_email else "this address"
        addresses = "addresses" if zoom_email else "address"
        return self._page(
            f"Connect Zoom to {self._app}?",
            f"<p>{_strong(self._app)} wants to access the Zoom account of {account}{purpose}.</p>"
            f"<p>Next, sign in to Zoom with {sign_in}. Zoom shows what access the app requests, and you can allow or decline it.</p>"
            f"{_button(continue_url, 'Continue to Zoom')}"
            f"<h2>Not your {addresses}, or not expecting this?</h2>"
            "<p>Close this page. No access has been granted.</p>",
            self._footer,
        )

    def home(self, version: str, not_ready_reason: str, links: Mapping[str, str]) -> str:
        """Return the page at the root of a service for development.

        Args:
            links: URLs by their texts.
        """
        readiness = f"not ready ({not_ready_reason})" if not_ready_reason else "ready"
        items = _list(f'<a href="{escape(url)}">{escape(text)}</a>' for text, url in links.items())
        return self._page(
            "Zoomgate is running",
            "<p>Zoomgate stores users' Zoom authorizations and calls Zoom for other services.</p>"
            f"<p>Version {escape(version)}, {escape(readiness)}</p>{items}",
        )

    def result(
        self,
        outcome: Outcome,
        user_email: str = "",
        zoom_email: str = "",
        scopes: Iterable[str] = (),
        *,
        reason: str = "",
    ) -> str:
        """Return the result page of an outcome.

        Args:
            user_email: Empty if this browser must not see the addresses.
            reason: The reason in the URL of the page. Anyone can create such a URL, so the page states the source of the reason.
        """
        parts = [f"<p>{self._text(outcome.text)}</p>"]
        if reason:
            parts.append(f"<p>Zoom's reason, from the address of this page: {_strong(reason)}</p>")
        if user_email and outcome.status < 300:
            label = "Connected" if scopes else "Requested for"
            account = f"<br>Zoom account: {_strong(zoom_email)}" if zoom_email else ""
            parts.append(f"<p>{label}: {_strong(user_email)}{account}</p>")
        elif user_email:
            account = f" with the Zoom account {_strong(zoom_email)}" if zoom_email else ""
            parts.append(f"<p>The link was for {_strong(user_email)}{account}.</p>")
        parts.append(f"<p>{self._text(outcome.next)}</p>")
        if self._connect_url:
            parts.append(_button(self._connect_url, f"Go to {self._app}"))
        if scopes:
            parts.append(self._granted(scopes))
        if outcome is OUTCOMES["connected"]:
            parts.append(
                "<h2>To disconnect later</h2>"
                "<p>You can remove the app in the Zoom App Marketplace under Manage, Added Apps.</p>"
            )
        return self._page(outcome.title.format(app=self._app), "".join(parts), self._footer)

    def _granted(self, scopes: Iterable[str]) -> str:
        sentences, others = describe_scopes(scopes)
        parts = [f"<h2>{escape(self._app)} can</h2>"]
        if sentences:
            parts.append(_list(escape(text) for text in sentences))
        if sentences and others:
            parts.append("<p>Other Zoom permissions:</p>")
        if others:
            parts.append(_list(f"<code>{escape(scope)}</code>" for scope in others))
        return "".join(parts)

    def _text(self, text: str) -> str:
        return escape(text).replace("{app}", escape(self._app))

    def _page(self, title: str, body: str, footer: str = "") -> str:
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{escape(title)}</title><style>{self._style}</style></head>"
            f'<body><main><p class="app">{escape(self._app)}</p><h1>{escape(title)}</h1>{body}</main>{footer}</body></html>'
        )


_EQUAL_LUMINANCE = 0.179
"""The luminance of a color on which black and white text have the same contrast: 4.58, above the 4.5 that WCAG AA requires."""


def _luminance(color: str) -> float:
    """Return the relative luminance of #rrggbb (https://www.w3.org/TR/WCAG22/#dfn-relative-luminance)."""
    channels = [int(color[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _list(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def _button(url: str, text: str) -> str:
    return f'<p><a class="go" href="{escape(url)}">{escape(text)}</a></p>'


def _strong(text: str) -> str:
    return f"<strong>{escape(text)}</strong>"
