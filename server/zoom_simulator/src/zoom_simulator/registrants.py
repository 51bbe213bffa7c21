"""Registrations for meetings in Zoom's format (https://developers.zoom.us/docs/api/meetings/#tag/meetings)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from zoom_simulator import clock
from zoom_simulator.field_types import FLAG, ListOf, Record, choice, email, text
from zoom_simulator.options import email_key
from zoom_simulator.randomness import Randomness

STATUSES = ("approved", "pending", "denied")

REGISTRANT = Record(
    {
        **dict.fromkeys(
            (
                "address",
                "city",
                "comments",
                "country",
                "industry",
                "job_title",
                "org",
                "phone",
                "state",
                "zip",
            ),
            text(),
        ),
        "auto_approve": FLAG,
        "custom_questions": ListOf(Record({"title": text(), "value": text(128)})),
        "email": email(128),
        "first_name": text(64),
        "language": choice(
            "en-US",
            "de-DE",
            "es-ES",
            "fr-FR",
            "jp-JP",
            "pt-PT",
            "ru-RU",
            "zh-CN",
            "zh-TW",
            "ko-KO",
            "it-IT",
            "vi-VN",
            "pl-PL",
            "Tr-TR",
        ),
        "last_name": text(64),
        "no_of_employees": choice(
            "",
            "1-20",
            "21-50",
            "51-100",
            "101-250",
            "101-500",
            "251-500",
            "500-1,000",
            "501-1,000",
            "1,001-5,000",
            "5,001-10,000",
            "More than 10,000",
        ),
        "purchasing_time_frame": choice(
            "", "Within a month", "1-3 months", "4-6 months", "More than 6 months", "No timeframe"
        ),
        "role_in_purchase_process": choice(
            "", "Decision Maker", "Evaluator/Recommender", "Influencer", "Not involved"
        ),
    },
    required=("email", "first_name"),
)
"""The fields that a caller may set. `no_of_employees` has the words of both lists in Zoom's documentation."""

STATUS_CHANGE = Record(
    {
        "action": choice("approve", "cancel", "deny"),
        "registrants": ListOf(Record({"email": text(), "id": text()}), maximum=30),
    },
    required=("action",),
)

_NOT_STORED = ("auto_approve", "language")


@dataclass(slots=True)
class Registrant:
    """A registration.

    Attributes:
        body: The response body in Zoom's format.
        occurrence_ids: The occurrences of a series for which the registration is valid; if empty, for all of them.
    """

    body: dict[str, Any]
    occurrence_ids: list[str] = field(default_factory=list)

    @property
    def registrant_id(self) -> str:
        """The ID of the registration."""
        identifier: str = self.body["id"]
        return identifier

    @property
    def email(self) -> str:
        """The registrant's email address."""
        email: str = self.body["email"]
        return email

    @property
    def name(self) -> str:
        """The registrant's first and last name."""
        return f"{self.body['first_name']} {self.body.get('last_name', '')}".strip()

    def attends(self, occurrence_id: str | None) -> bool:
        """Return whether the registration is valid for an occurrence; None means any."""
        return occurrence_id is None or not self.occurrence_ids or occurrence_id in self.occurrence_ids

    def update(self, fields: dict[str, Any]) -> None:
        """Update the data of the person."""
        self.body |= {name: value for name, value in fields.items() if name not in _NOT_STORED}

    def set_status(self, status: str, meeting: int, random: Randomness) -> None:
        """Set the status. Only an approved registrant has a link and a code to join."""
        self.body["status"] = status
        if status == "approved":
            self.body.setdefault("join_url", f"https://example.zoom.us/w/{meeting}?tk={random.text(24)}")
            self.body.setdefault("participant_pin_code", 100_000 + int.from_bytes(random.octets(2)))
        else:
            self.body.pop("join_url", None)
            self.body.pop("participant_pin_code", None)


def find(registrants: Iterable[Registrant], email: str) -> Registrant | None:
    """Return the registration of an email address, or None."""
    return next((each for each in registrants if email_key(each.email) == email_key(email)), None)


def new_registrant(fields: dict[str, Any], now: float, random: Randomness) -> Registrant:
    """Create a registration that waits for approval. `fields` are those of the request, as read with `REGISTRANT`."""
    registrant = Registrant({"id": random.text(16), "create_time": clock.text(now), "status": "pending"})
    registrant.update(fields)
    return registrant
