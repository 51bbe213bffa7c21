"""Generator of server/zoomgate_server/zoom/operations.tsv from Zoom's OpenAPI files, whose paths are the arguments.

The files are Zoom's and not part of this repository (https://developers.zoom.us/docs/api/). Only facts are copied: methods, paths, names
of scopes, and rate limit labels.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoomgate_server.zoom.operations import COLUMNS, RateLabel, scope_level

TABLE = Path(__file__).parents[1] / "server/zoomgate_server/zoom/operations.tsv"
_LABEL = re.compile(r"Rate Limit Label\][^`]*`([A-Za-z _-]+)`")


def rows(document: Any) -> Iterator[tuple[str, ...]]:
    """Yield the row of each operation of an OpenAPI document."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            extensions = operation["x-extensions"]
            label = _LABEL.search(operation["description"])
            yield (
                method.upper(),
                path,
                _scopes(extensions.get("x-macro-scopes", ())),
                _scopes(extensions.get("x-granular-scopes", ())),
                RateLabel(re.sub(r"\W", "_", label[1].upper())) if label else RateLabel.UNDOCUMENTED,
            )


def _scopes(names: list[str]) -> str:
    """Return the scopes, those of users first. Zoom's names have spaces around some of them."""
    unique = {name.strip() for name in names}
    return " ".join(sorted(unique, key=lambda name: (scope_level(name) != "user", name)))


if __name__ == "__main__":
    found = [row for file in sys.argv[1:] for row in rows(json.loads(Path(file).read_bytes()))]
    lines = [COLUMNS, *sorted(found, key=lambda row: (row[1], row[0]))]
    TABLE.write_text("".join("\t".join(line) + "\n" for line in lines))
