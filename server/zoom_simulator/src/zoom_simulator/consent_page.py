"""The consent page of the simulator."""

from collections.abc import Sequence
from html import escape

from zoom_simulator.options import SimulatedUser
from zoom_simulator.pages import document, escaped


def page(users: Sequence[SimulatedUser], scopes: Sequence[str], hidden: dict[str, str], app: str) -> str:
    """Return the HTML page on which a user selects an account and allows or declines access."""
    choices = "".join(
        f'<label><input type="radio" name="user" value="{escape(user.email)}"{" checked" if index == 0 else ""}> '
        f"{escaped(user.name)} &lt;{escaped(user.email)}&gt;</label>"
        for index, user in enumerate(users)
    )
    fields = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in hidden.items()
    )
    scope_items = "".join(f"<li><code>{escaped(scope)}</code></li>" for scope in scopes)
    return document(
        f"Zoom simulator: allow {app}?",
        f"<h1>Allow the app <q>{escaped(app)}</q> to use a Zoom account?</h1>"
        f'<form method="post"><fieldset><legend>Select your Zoom account</legend>{choices}</fieldset>'
        f"<h2>The app requests</h2><ul>{scope_items}</ul>{fields}"
        '<button name="decision" value="allow">Allow</button><button name="decision" value="decline">Decline</button>'
        "</form>",
    )
