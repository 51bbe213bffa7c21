"""The metadata of errors, as documented in error_reason.proto."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

_PROTO = Path(__file__).parents[2] / "proto/zoomgate/v1/error_reason.proto"
_EXAMPLE = re.compile(r"// Example: (\{.*?\}\})", re.DOTALL)
_ZOOM = frozenset({"http_status", "zoom_code", "zoom_message"})
"""Keys of errors that are caused by a response of Zoom."""

_OPTIONAL = _ZOOM | {"connection", "retry_after", "limit_type", "scopes", "size_bytes", "record", "host"}
"""Keys that an error may lack: Zoom sent no such value, or the problem affects no particular record."""


@cache
def examples() -> dict[str, dict[str, Any]]:
    """Return the example of each reason."""
    texts = _EXAMPLE.findall(_PROTO.read_text(encoding="utf-8"))
    parsed = [json.loads(re.sub(r"\n *// *", " ", text)) for text in texts]
    return {example["reason"]: example for example in parsed}


def check_metadata(reason: str, metadata: dict[str, str]) -> None:
    """Check that an error has the documented metadata keys."""
    documented = examples()[reason]["metadata"].keys()
    unknown = metadata.keys() - documented - (_ZOOM if documented & _ZOOM else set())
    assert not unknown, f"{reason}: {unknown} are not documented"
    missing = documented - metadata.keys() - _OPTIONAL
    assert not missing, f"{reason}: {missing} are missing"
