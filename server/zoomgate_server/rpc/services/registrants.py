"""The RegistrantsService RPCs (operations: https://developers.zoom.us/docs/api/meetings/)."""

from zoomgate.v1 import registrants_service_pb2 as pb
from zoomgate.v1.registrants_service_pb2_grpc import RegistrantsServiceServicer
from zoomgate_server.rpc.services.response_mapping import confirmation, list_reader, message_reader
from zoomgate_server.rpc.services.typed_rpc import TypedRpc, TypedService


class RegistrantsService(TypedService, RegistrantsServiceServicer):
    """The RegistrantsService: registrations for meetings of Zoom users."""

    AddRegistrant = TypedRpc(
        "POST",
        "/meetings/{meetingId}/registrants",
        message_reader(pb.AddRegistrantResponse, required="registrant_id"),
        query=("occurrence_ids",),
        body=pb.AddRegistrantRequest,
    )
    ListRegistrants = TypedRpc(
        "GET",
        "/meetings/{meetingId}/registrants",
        list_reader(pb.ListRegistrantsResponse, items="registrants"),
        query=("occurrence_id", "status", "page_size", "page_token"),
    )
    GetRegistrant = TypedRpc(
        "GET",
        "/meetings/{meetingId}/registrants/{registrantId}",
        message_reader(pb.GetRegistrantResponse, field="registrant", required="id"),
    )
    UpdateRegistrantStatus = TypedRpc(
        "PUT",
        "/meetings/{meetingId}/registrants/status",
        confirmation(pb.UpdateRegistrantStatusResponse),
        query=("occurrence_id",),
        body=pb.UpdateRegistrantStatusRequest,
    )
    DeleteRegistrant = TypedRpc(
        "DELETE",
        "/meetings/{meetingId}/registrants/{registrantId}",
        confirmation(pb.DeleteRegistrantResponse),
        query=("occurrence_id",),
    )
