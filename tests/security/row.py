"""A row of the tables of nonsense: a call that must be refused, and how."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.message import Message

from support.harness import Harness, Refusal

REMEDY = re.compile(
    r"[:;,] (?:or )?(?:send|set|leave (?:(?:it|them|one of them) )?out|leave (?:it|them) empty|remove|omit|correct|use|escape|say|begin"
    r"|check)\b"
)
"""What tells a caller what to send instead: behind the rule, an instruction."""


@dataclass(frozen=True)
class Row:
    """A call that must be refused.

    Attributes:
        name: What is wrong, in words.
        method: `Service.Method`.
        request: The request, or its bytes.
        fields: Every field that the refusal names.
        reason: The reason of the refusal; empty where gRPC itself refuses.
        code: Its code.
        caller: Who calls.
    """

    name: str
    method: str
    request: Message | bytes
    fields: frozenset[str] = frozenset()
    reason: str = "INVALID_FIELD"
    code: str = "INVALID_ARGUMENT"
    caller: str = "service"

    async def refusal(self, zoomgate: Harness) -> Refusal:
        """Make the call, which must fail."""
        service, _, method = self.method.partition(".")
        call = zoomgate.channel.unary_unary(f"/zoomgate.v1.{service}/{method}")
        sent = self.request if isinstance(self.request, bytes) else self.request.SerializeToString()
        return await zoomgate.refusal(call, sent, self.caller)


def fields(*names: str) -> frozenset[str]:
    """The fields that a refusal names."""
    return frozenset(names)


def without_remedy(refusals: Iterable[Refusal]) -> list[str]:
    """Give what the INVALID_ARGUMENT among some refusals say without saying what to send instead."""
    return [
        text
        for refusal in refusals
        if refusal.code.name == "INVALID_ARGUMENT"
        for text in (*refusal.violations.values(), refusal.message)
        if REMEDY.search(text) is None
    ]
