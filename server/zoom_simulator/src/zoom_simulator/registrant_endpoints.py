"""Endpoints of the REST API for the registrants of a meeting."""

from typing import Any

from aiohttp import web

from zoom_simulator.errors import ApiError, InvalidFields
from zoom_simulator.field_types import read_fields
from zoom_simulator.meeting_access import meeting_of, occurrence_of
from zoom_simulator.meetings import Meeting
from zoom_simulator.options import SimulatedUser, email_key
from zoom_simulator.paging import page
from zoom_simulator.rate_limits import DailyLimit
from zoom_simulator.registrants import REGISTRANT, STATUS_CHANGE, STATUSES, Registrant, find
from zoom_simulator.request_log import log_reason
from zoom_simulator.requests import json_object, query_choice
from zoom_simulator.state import ZoomState

_STATUS_AFTER = {"approve": "approved", "deny": "denied"}


class RegistrantEndpoints:
    """Handlers of `/v2/meetings/{id}/registrants…`."""

    def __init__(self, state: ZoomState) -> None:
        self._state = state

    async def add_registrant(self, request: web.Request, caller: SimulatedUser) -> web.StreamResponse:
        """Register a person."""
        meeting = self._meeting(request, caller, code=1001)
        fields = read_fields(await json_object(request), REGISTRANT)
        occurrence_ids = _occurrence_ids(request, meeting)
        self._state.count(DailyLimit.REGISTRATIONS, f"{meeting.number}/{email_key(fields['email'])}")
        registrant = meeting.register(fields, occurrence_ids, self._state.wall(), self._state.random)
        log_reason(f"registered {registrant.registrant_id}: {registrant.body['status']}")
        response: dict[str, Any] = {"id": meeting.number, "registrant_id": registrant.registrant_id}
        response |= _selected(meeting.body, "topic", "start_time")
        response |= _selected(registrant.body, "join_url", "participant_pin_code")
        if "occurrences" in meeting.body:
            response["occurrences"] = [
                each for each in meeting.body["occurrences"] if registrant.attends(each["occurrence_id"])
            ]
        return web.json_response(response, status=201)

    async def list_registrants(self, request: web.Request, caller: SimulatedUser) -> web.StreamResponse:
        """List the registrations with a status."""
        meeting = self._meeting(request, caller)
        occurrence_id = _occurrence_id(request, meeting)
        status = query_choice(request.query, "status", STATUSES)
        rows = [
            registrant.body
            for registrant in meeting.registrants.values()
            if registrant.body["status"] == status and registrant.attends(occurrence_id)
        ]
        response = page(request, caller, "registrants", rows, now=self._state.wall())
        log_reason(f"listed {len(response['registrants'])} of {len(rows)} {status} registrants")
        return web.json_response(response)

    async def get_registrant(self, request: web.Request, caller: SimulatedUser) -> web.StreamResponse:
        """Return a registration."""
        registrant = _registrant(self._meeting(request, caller), request.match_info["registrant"])
        log_reason(f"read registrant {registrant.registrant_id}")
        return web.json_response(registrant.body)

    async def set_status(self, request: web.Request, caller: SimulatedUser) -> web.StreamResponse:
        """Approve, deny or cancel registrations: all of them or, if one is invalid, none."""
        meeting = self._meeting(request, caller)
        occurrence_id = _occurrence_id(request, meeting)
        change = read_fields(await json_object(request), STATUS_CHANGE)
        targets = [
            _registrant(meeting, target.get("id", ""), target.get("email", ""))
            for target in change.get("registrants", [])
        ]
        self._state.count(DailyLimit.REGISTRANT_STATUSES, *(each.registrant_id for each in targets))
        for registrant in targets:
            if status := _STATUS_AFTER.get(change["action"]):
                registrant.set_status(status, meeting.number, self._state.random)
            elif registrant.body["status"] == "approved":
                meeting.unregister(registrant, occurrence_id)
        log_reason(f"applied {change['action']} to {len(targets)} registrants")
        return web.Response(status=204)

    async def unregister(self, request: web.Request, caller: SimulatedUser) -> web.StreamResponse:
        """Delete a registration, or one occurrence of it."""
        meeting = self._meeting(request, caller)
        occurrence_id = _occurrence_id(request, meeting)
        registrant = _registrant(meeting, request.match_info["registrant"])
        meeting.unregister(registrant, occurrence_id)
        log_reason(f"deleted registrant {registrant.registrant_id}")
        return web.Response(status=204)

    def _meeting(self, request: web.Request, caller: SimulatedUser, *, code: int = 3001) -> Meeting:
        """Return the meeting in the path of a request, which must require registration."""
        meeting = meeting_of(request, caller, self._state, code=code)
        if not meeting.requires_registration:
            raise ApiError(400, 300, f"Registration has not been enabled for this meeting: {meeting.number}.")
        return meeting


def _registrant(meeting: Meeting, registrant_id: str, email: str = "") -> Registrant:
    """Return a registration by its ID or, without an ID, by its email address."""
    registrant = (
        meeting.registrants.get(registrant_id) if registrant_id else find(meeting.registrants.values(), email)
    )
    if registrant is None:
        raise ApiError(
            400,
            300,
            "The registrant ID is invalid.",
            reason="the meeting has no registrant with this ID or address",
        )
    return registrant


def _selected(body: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: body[name] for name in names if name in body}


def _occurrence_id(request: web.Request, meeting: Meeting) -> str | None:
    occurrence = occurrence_of(request, meeting)
    return None if occurrence is None else occurrence["occurrence_id"]


def _occurrence_ids(request: web.Request, meeting: Meeting) -> list[str]:
    """Return the occurrences in the query; if the meeting is not a series with a choice of occurrences, none.

    Raises:
        InvalidFields: The meeting has no such occurrence, or it is deleted.
    """
    rows = meeting.body.get("occurrences", [])
    available = [each["occurrence_id"] for each in rows if each["status"] != "deleted"]
    chosen = [each for each in request.query.get("occurrence_ids", "").split(",") if each]
    if not set(chosen) <= set(available):
        raise InvalidFields({"occurrence_ids": "Invalid field."})
    return (chosen or available) if meeting.registers_for_occurrences else []
