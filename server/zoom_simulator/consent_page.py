"""The consent page."""

from collections.abc import Sequence
from html import escape

from zoom_simulator.options import SimulatedUser
from zoom_simulator.pages import document, shown


def page(users: Sequence[SimulatedUser], scopes: Sequence[str], hidden: dict[str, str], app: str) -> str:
    """Give the page on which somebody chooses who they are and allows or declines."""
    choices = "".join(
        f'<label><input type="radio" name="user" value="{escape(user.email)}"{" checked" if index == 0 else ""}> '
        f"{shown(f'{user.first_name} {user.last_name}'.strip())} &lt;{shown(user.email)}&gt;</label>"
        for index, user in enumerate(users)
    )
    fields = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in hidden.items()
    )
    listed = "".join(f"<li><code>{shown(scope)}</code></li>" for scope in scopes)
    return document(
        f"Simulated Zoom: allow {app}?",
        f"<h1>Allow the app <q>{shown(app)}</q> to use a Zoom account?</h1>"
        f'<form method="post"><fieldset><legend>Who are you at Zoom?</legend>{choices}</fieldset>'
        f"<h2>The app asks for</h2><ul>{listed}</ul>{fields}"
        '<button name="decision" value="allow">Allow</button><button name="decision" value="decline">Decline</button>'
        "</form>",
    )
