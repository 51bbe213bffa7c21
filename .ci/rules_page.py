"""Generator of docs/meeting-rules.md. With `--check`, it only verifies that the page is up to date."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from zoomgate_server.rpc.services.rules import meeting_rules, request_rules
from zoomgate_server.rpc.services.rules.checker import BOUND
from zoomgate_server.rpc.services.rules.rule import Condition, Rule, Table

PAGE = Path(__file__).parents[1] / "docs/meeting-rules.md"
HEAD = f"""# Rules of meetings and registrants

The rules that requests to MeetingsService and RegistrantsService must satisfy, generated from the tables of the service by `make docs`. A
request is checked before Zoom is called. `INVALID_FIELD` lists all violations, each with the path of the field in the request, such as
`meeting_details.recurrence.weekly_days[2]`, and what to send instead.

The rules are those that Zoom documents, and those by which Zoom would ignore or replace what a request asks for without an error
([Meeting schedules](meetings.md)). Settings that Zoom documents as overridden by others are accepted: `join_before_host` with
`waiting_room`, and the features that end-to-end encryption disables. Only Zoom checks what depends on the plan and the settings of a user.

In addition, for all fields:

- Strings contain no control characters.
- Enums have a named value other than the unspecified one.
- Times are in the years 1970 to 9999.
- A list without another rule has {BOUND}. Zoom documents no such limit; this one bounds the work for a request.

A field can have an unknown value, such as one that Zoom has added, in `additional_fields`. No rule depends on this value.
"""
SAMPLES = {"zone": "the time zone", "start": datetime(2026, 3, 29, 3, 30, tzinfo=UTC)}


def text_of(rule: Rule) -> str:
    """Return the text of a rule, with samples for values of the request."""
    return rule.text.format_map(SAMPLES) if isinstance(rule, Condition) else str(rule)


def section(table: Table) -> Iterator[str]:
    """Yield the lines of the section of a table."""
    yield f"\n## {table.title}\n"
    yield f"{table.text}{' ' if table.text else ''}Source: [Zoom's API reference]({table.source}).\n"
    yield "| field | rule |"
    yield "|---|---|"
    yield from (f"| `{rule.field}` | {text_of(rule)} |" for rule in table.rules)


def page() -> str:
    """Return the content of docs/meeting-rules.md."""
    tables = [
        meeting_rules.PROPERTIES,
        meeting_rules.COMBINATIONS,
        meeting_rules.ON_CREATE,
        meeting_rules.ON_UPDATE,
        request_rules.REQUESTS,
    ]
    occurrence = "\n".join(f"- `{name}`" for name in meeting_rules.OF_OCCURRENCE)
    return "\n".join(
        [
            HEAD.rstrip(),
            *(line for table in tables for line in section(table)),
            f"\n## Changes of one occurrence\n\nWith `occurrence_id`, only these properties can change:\n\n{occurrence}\n",
        ]
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if PAGE.read_text() == page() else "docs/meeting-rules.md is out of date; run `make docs`")
    PAGE.write_text(page())
