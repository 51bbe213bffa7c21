"""Comparison of the messages and the inventory of properties with Zoom's OpenAPI file of the meetings API, whose path is the argument.

The file is Zoom's and not part of this repository (https://developers.zoom.us/docs/api/). With `--write`, the script regenerates the
inventory. Only facts are copied: names, types, closed sets of values and deprecations. Run it with `PYTHONPATH=tests`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from support.zoom_properties import MESSAGES, TABLE, Property, inventory, untyped
from zoomgate_server.rpc.services.response_mapping import PAGING_KEYS

_FORMATS = ("date-time", "int64")


def properties(document: Any) -> Iterator[Property]:
    """Yield the properties of the bodies of an OpenAPI document that have messages, in their order."""
    operations = {
        operation["operationId"]: operation
        for path in document["paths"].values()
        for operation in path.values()
    }
    for operation, body in MESSAGES:
        content = operations[operation]
        if body == "request":
            content = content["requestBody"]
        else:
            content = next(value for status, value in content["responses"].items() if status.startswith("2"))
        for path, schema in _properties(content["content"]["application/json"]["schema"]):
            yield Property(
                operation,
                body,
                path,
                _type(schema),
                "|".join(map(str, schema.get("enum", ()))),
                "deprecated" if schema.get("deprecated") else "",
            )


def _properties(schema: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for part in schema.get("allOf", ()):
        yield from _properties(part, prefix)
    for name, value in schema.get("properties", {}).items():
        is_list = value.get("type") == "array"
        path, item = (f"{prefix}{name}[]", value["items"]) if is_list else (prefix + name, value)
        yield path, item
        yield from _properties(item, path + ".")


def _type(schema: Any) -> str:
    """Return the type, with the format if it determines the type of a field."""
    name: str = schema.get("type", "object")
    return f"{name} {schema['format']}" if schema.get("format") in _FORMATS else name


if __name__ == "__main__":
    file, *options = sys.argv[1:]
    documented = list(properties(json.loads(Path(file).read_bytes())))
    if options == ["--write"]:
        TABLE.write_text("".join("\t".join(row) + "\n" for row in (Property._fields, *documented)))
    stored = set(inventory())
    for row in sorted(stored ^ set(documented)):
        click.echo(f"{'only in the inventory' if row in stored else 'not in the inventory'}: {' '.join(row)}")
    missing = list(untyped(documented))
    click.echo("".join(f"{line}\n" for line in missing), nl=False)
    for operation, body in MESSAGES:
        rows = [row for row in documented if row[:2] == (operation, body)]
        left_out = sum(row.path in PAGING_KEYS for row in rows)
        gaps = sum(line.startswith(f"{operation} {body}:") for line in missing)
        click.echo(
            f"{operation:24} {body:8} documented {len(rows):4}  typed {len(rows) - left_out - gaps:4}"
            f"  paging {left_out}  untyped {gaps}"
        )
    sys.exit(bool(missing) or stored != set(documented))
