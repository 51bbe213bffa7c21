"""`zoomgate keys`: the key ring."""

from pathlib import Path

import click

from zoomgate_server.cli.output import fail
from zoomgate_server.tokens import keyfile


@click.group()
def keys() -> None:
    """Manage the key ring.

    Example: zoomgate keys new /etc/zoomgate/keys.json
    """


@keys.command()
@click.argument("path", envvar="ZOOMGATE_KEYS", default=".zoomgate/keys.json")
def new(path: str) -> None:
    """Write a ring of one new key to PATH (default: ZOOMGATE_KEYS, or .zoomgate/keys.json) and print the key's id.

    An existing file is never overwritten. Keep a copy in a safe place: without it every stored token is lost.

    Example: zoomgate keys new /etc/zoomgate/keys.json
    """
    file = Path(path)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        key_id = keyfile.create(file)
    except keyfile.KeyFileError as error:
        fail(str(error))
    except OSError as error:
        fail(f"The folder of {path} cannot be made ({error.strerror}): name another file")
    click.echo(key_id)
