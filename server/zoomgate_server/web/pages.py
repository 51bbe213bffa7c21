"""The pages that a person sees on the way back from Zoom.

They are plain HTML without scripts and third-party content. What happened is told by an outcome from a closed set, so that nothing
that came in from outside is ever shown.
"""

from dataclasses import dataclass
from html import escape

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Server": "zoomgate",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a page says.

    Attributes:
        status: HTTP status.
        title: What happened, in a few words.
        text: What it means and what to do next.
    """

    status: int
    title: str
    text: str


OUTCOMES = {
    "connected": Outcome(
        200,
        "You are connected to Zoom",
        "The app can now act for you at Zoom. You can close this page. To end it, disconnect in the app that sent you here, or remove"
        " the app under “Added Apps” in your Zoom account.",
    ),
    "declined": Outcome(
        200,
        "You are not connected",
        "The request was declined at Zoom, so nothing was stored. If that was a mistake, ask for a new link and allow it.",
    ),
    "link_expired": Outcome(
        400,
        "This link no longer works",
        "It was used already, is older than 10 minutes, or was opened in another browser than the one that it was started in. Ask for a new"
        " link and open it in one browser.",
    ),
    "other_user": Outcome(
        409,
        "Another Zoom account was used",
        "You are signed in to Zoom with an account that has another e-mail address than the one that was asked for. Sign out of Zoom, ask"
        " for a new link and sign in with the right account.",
    ),
    "code_refused": Outcome(
        400,
        "Zoom did not confirm the connection",
        "Zoom refused the code that it had sent, most often since too much time went by. Ask for a new link and try again.",
    ),
    "try_later": Outcome(
        503,
        "Please try again in a moment",
        "Zoom or this service could not be reached. Nothing was lost. Ask for a new link and try again.",
    ),
    "misconfigured": Outcome(
        500,
        "This service is not set up correctly",
        "Zoom refused the app itself, not you. Tell whoever runs this service; there is nothing you can do here.",
    ),
    "bad_request": Outcome(
        400,
        "This address is not complete",
        "Something is missing or appears twice in the address. Open the link again exactly as you got it.",
    ),
}
"""Every outcome that a page can tell, by the name in its address."""

_STYLE = (
    ":root{color-scheme:light dark}body{font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:12vh auto;padding:0 1.25rem;"
    "color:#1b1b1f;background:#fff}h1{font-size:1.6rem;line-height:1.25}footer{margin-top:3rem;color:#55555e;font-size:.9rem}"
    "@media (prefers-color-scheme:dark){body{color:#ececf1;background:#17171a}footer{color:#a9a9b4}}"
)


def render(outcome: Outcome) -> str:
    """Give the page of an outcome as HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(outcome.title)}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{escape(outcome.title)}</h1><p>{escape(outcome.text)}</p></main>"
        "<footer>Zoomgate keeps this connection for the app that sent you here.</footer></body></html>"
    )
