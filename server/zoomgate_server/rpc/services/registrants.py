"""The RegistrantsService RPCs (operations: https://developers.zoom.us/docs/api/meetings/)."""

from collections.abc import Mapping
from typing import Any

from zoomgate.v1 import registrants_service_pb2 as pb
from zoomgate.v1.registrants_service_pb2_grpc import RegistrantsServiceServicer
from zoomgate_server.rpc.services import registrant_mapping
from zoomgate_server.rpc.services.response_mapping import confirmation
from zoomgate_server.rpc.services.typed_rpc import TypedRpc, TypedService
from zoomgate_server.rpc.services.validation import Violations


class RegistrantsService(TypedService, RegistrantsServiceServicer):
    """The RegistrantsService: registrations for meetings of Zoom users."""

    def _new_registrant(self, request: pb.AddRegistrantRequest, violations: Violations) -> Mapping[str, Any]:
        violations.raise_if_any()
        return registrant_mapping.addition(request, violations)

    def _status_change(
        self, request: pb.UpdateRegistrantStatusRequest, violations: Violations
    ) -> Mapping[str, Any]:
        violations.raise_if_any()
        return registrant_mapping.status_update(request, violations)

    AddRegistrant = TypedRpc(
        "POST",
        "/meetings/{meetingId}/registrants",
        registrant_mapping.added_registrant,
        query=("occurrence_ids",),
        body=_new_registrant,
    )
    ListRegistrants = TypedRpc(
        "GET",
        "/meetings/{meetingId}/registrants",
        registrant_mapping.registrants,
        query=("occurrence_id", "status", "page_size", "page_token"),
    )
    GetRegistrant = TypedRpc(
        "GET",
        "/meetings/{meetingId}/registrants/{registrantId}",
        registrant_mapping.registrant,
    )
    UpdateRegistrantStatus = TypedRpc(
        "PUT",
        "/meetings/{meetingId}/registrants/status",
        confirmation(pb.UpdateRegistrantStatusResponse),
        query=("occurrence_id",),
        body=_status_change,
    )
    DeleteRegistrant = TypedRpc(
        "DELETE",
        "/meetings/{meetingId}/registrants/{registrantId}",
        confirmation(pb.DeleteRegistrantResponse),
        query=("occurrence_id",),
    )
