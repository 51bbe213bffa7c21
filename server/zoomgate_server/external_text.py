"""Text from outside the service, such as Zoom's messages and the parameters of a redirect."""

import unicodedata


def sanitize(text: str, limit: int) -> str:
    """Sanitize external text: replace control, format and separator characters with spaces, and truncate it."""
    printable = "".join(
        character if unicodedata.category(character)[0] != "C" and character not in "\u2028\u2029" else " "
        for character in text[: 2 * limit]
    )
    return " ".join(printable.split())[:limit]
