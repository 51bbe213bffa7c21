"""Validation of the requests of RegistrantsService (rules: https://developers.zoom.us/docs/api/meetings/)."""

from zoomgate.v1 import registrants_service_pb2 as pb
from zoomgate_server.rpc.services.meeting_validation import check_fields
from zoomgate_server.rpc.services.validation import Violations

MAX_CHANGES = 30
_REQUIRED = ("email", "first_name")
_OUTPUT_ONLY = frozenset({"create_time", "id", "join_url", "participant_pin_code", "status"})


def check_new(request: pb.AddRegistrantRequest, violations: Violations) -> None:
    """Validate a person to register."""
    registrant = request.registrant
    check_fields(registrant, "registrant", violations)
    names = {field.name for field, _ in registrant.ListFields()}
    for name in _REQUIRED:
        if name not in names and name not in registrant.additional_fields:
            violations.add(f"registrant.{name}", "is required; set it")
    for name in sorted(names & _OUTPUT_ONLY):
        violations.add(f"registrant.{name}", "can only be returned by Zoom; omit it")
    if request.language not in pb.AddRegistrantRequest.Language.values():
        violations.add("language", f"is {request.language}, which is not a value of the enum; omit it")


def check_status_change(request: pb.UpdateRegistrantStatusRequest, violations: Violations) -> None:
    """Validate a change of the status of registrations."""
    if request.action not in pb.UpdateRegistrantStatusRequest.Action.values()[1:]:
        violations.add("action", "is required; send ACTION_APPROVE, ACTION_DENY or ACTION_CANCEL")
    if not 1 <= len(request.registrants) <= MAX_CHANGES:
        violations.add("registrants", f"has {len(request.registrants)} entries; send 1 to {MAX_CHANGES}")
    for index, registrant in enumerate(request.registrants[:MAX_CHANGES]):
        if not registrant.email and not registrant.id:
            violations.add(f"registrants[{index}]", "is empty; set email, id or both")
