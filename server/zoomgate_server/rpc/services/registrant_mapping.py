"""Conversion of registrations between Zoom's JSON and protobuf messages (https://developers.zoom.us/docs/api/meetings/)."""

from typing import Any

from zoomgate.v1 import registrants_service_pb2 as pb
from zoomgate_server.rpc.services.json_mapping import MessageConverter
from zoomgate_server.rpc.services.meeting_mapping import CONVENTIONS
from zoomgate_server.rpc.services.response_mapping import list_reader, message_reader
from zoomgate_server.rpc.services.validation import Violations

_ADDITION = MessageConverter(pb.AddRegistrantRequest.DESCRIPTOR, CONVENTIONS)
_STATUS_UPDATE = MessageConverter(pb.UpdateRegistrantStatusRequest.DESCRIPTOR, CONVENTIONS)

registrant = message_reader(pb.GetRegistrantResponse, CONVENTIONS, field="registrant", required="id")
registrants = list_reader(pb.ListRegistrantsResponse, CONVENTIONS, items="registrants")
added_registrant = message_reader(pb.AddRegistrantResponse, CONVENTIONS, required="registrant_id")


def addition(request: pb.AddRegistrantRequest, violations: Violations) -> dict[str, Any]:
    """Return the registration to add as JSON for Zoom. All enum values must be known."""
    data = _ADDITION.json(request, violations)
    return {**data.pop("registrant", {}), **data}


def status_update(request: pb.UpdateRegistrantStatusRequest, violations: Violations) -> dict[str, Any]:
    """Return the change of registrations as JSON for Zoom. All enum values must be known."""
    return _STATUS_UPDATE.json(request, violations)
