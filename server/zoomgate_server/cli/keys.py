"""`zoomgate keys`: the key ring."""

import json
from pathlib import Path

import click

from zoomgate_server.cli.output import Table, fail, load_settings
from zoomgate_server.tokens import keyfile


@click.group()
def keys() -> None:
    """Manage the key ring.

    Example: zoomgate keys new /etc/zoomgate/keys.json
    """


@keys.command()
@click.argument("path", required=False)
def new(path: str | None) -> None:
    """Write a ring of one new key to PATH and print the key's id.

    PATH is where the settings say (ZOOMGATE_KEYS, else keys.json in the data folder) unless given.

    An existing file is never overwritten. Keep a copy in a safe place: without it every stored token is lost.

    Example: zoomgate keys new /etc/zoomgate/keys.json
    """
    file = Path(path) if path else load_settings("name the file: zoomgate keys new PATH").keys_path
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        key_id = keyfile.create(file)
    except keyfile.KeyFileError as error:
        fail(str(error))
    except OSError as error:
        fail(f"The folder of {file} cannot be made ({error.strerror}): name another file")
    click.echo(key_id)


@keys.command("list")
@click.argument("path", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_(path: str | None, as_json: bool) -> None:
    """List the keys in PATH by their ids, never themselves: which one seals, and which only open.

    PATH is where the settings say (ZOOMGATE_KEYS, else keys.json in the data folder) unless given.

    Example: zoomgate keys list
    """
    file = Path(path) if path else load_settings("name the file: zoomgate keys list PATH").keys_path
    try:
        ring = keyfile.load(file)
    except keyfile.KeyFileError as error:
        fail(str(error))
    table = Table("KEY", "USE")
    for key_id in ring.ids:
        seals = key_id == ring.primary_id
        if as_json:
            click.echo(json.dumps({"keyId": key_id, "seals": seals}))
        else:
            table.add([(str(key_id), "seals and opens" if seals else "opens")])
