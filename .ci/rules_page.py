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

The rules reject what Zoom documents as not allowed or as incomplete, and schedules that Zoom would silently change
([Schedules](meetings.md#schedules)). Values that have no effect unless something else is set are accepted: `join_before_host` despite
`waiting_room`, `registration_type` without a series, `duration_minutes` without a fixed time, and the features that end-to-end encryption
disables. Only Zoom checks what depends on the plan and the settings of a user.

The source of a rule is Zoom's API reference, or Zoomgate for rules that Zoom does not document.

In addition, for all fields:

- Strings contain no control characters.
- Enums have a named value other than the unspecified one.
- Times are in the years 1970 to 9999.
- A list without another rule has {BOUND}. Zoom documents no such limit; this one bounds the work for a request.

A field can have an unknown value, such as one that Zoom has added, in `additional_fields`, under Zoom's name. Rules treat it as set, but
none depends on its value. `start_time`, `timezone` and the known values of `type` are rejected there, because rules depend on them.
"""
SAMPLES = {"zone": "the time zone", "start": datetime(2026, 3, 29, 3, 30, tzinfo=UTC)}


def text_of(rule: Rule) -> str:
    """Return the text of a rule, with samples for values of the request."""
    return rule.text.format_map(SAMPLES) if isinstance(rule, Condition) else str(rule)


def section(table: Table, sources: list[str]) -> Iterator[str]:
    """Yield the lines of the section of a table. Links refer to the sources by number."""
    yield f"\n## {table.title}\n"
    if table.text:
        yield f"{table.text}\n"
    source = f"[Zoom][{sources.index(table.source)}]" if table.source else "Zoomgate"
    yield "| field | rule | source |"
    yield "|---|---|---|"
    yield from (f"| `{rule.field}` | {text_of(rule)} | {source} |" for rule in table.rules)


def page() -> str:
    """Return the content of docs/meeting-rules.md."""
    tables = [
        meeting_rules.PROPERTIES,
        meeting_rules.COMBINATIONS,
        meeting_rules.FROM_UPDATES,
        meeting_rules.ON_CREATE,
        meeting_rules.ON_UPDATE,
        meeting_rules.UNDOCUMENTED,
        request_rules.REQUESTS,
        request_rules.UNDOCUMENTED,
    ]
    sources = sorted({table.source for table in tables})
    number = sources.index(meeting_rules.UPDATE)
    return "\n".join(
        [
            HEAD.rstrip(),
            *(line for table in tables for line in section(table, sources)),
            "\n## Changes of one occurrence\n",
            f"With `occurrence_id`, only these properties can change ([Zoom][{number}]):\n",
            *(f"- `{name}`" for name in meeting_rules.OF_OCCURRENCE),
            "",
            *(f"[{number}]: {source}" for number, source in enumerate(sources) if source),
            "",
        ]
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if PAGE.read_text() == page() else "docs/meeting-rules.md is out of date; run `make docs`")
    PAGE.write_text(page())
