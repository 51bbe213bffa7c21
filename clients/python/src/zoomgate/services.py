"""Services of the API, with one method per RPC: blocking and asyncio variants.

The proto files (`proto/zoomgate/v1/`) document the authorization, errors and retries of each RPC, and the fields of the messages.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from zoomgate._channel import SERVICES, retry_safe
from zoomgate._methods import (
    AsyncMethod,
    AsyncPagedMethod,
    AsyncStream,
    Method,
    PagedMethod,
    Session,
    Stream,
)
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy
from zoomgate.v1 import registrants_service_pb2 as registrants
from zoomgate.v1.connection_pb2 import Connection
from zoomgate.v1.meeting_pb2 import Meeting
from zoomgate.v1.past_meeting_pb2 import Participant
from zoomgate.v1.registrant_pb2 import Registrant

_AUTH, _MEETINGS, _REGISTRANTS, _PROXY = SERVICES
_BLOCKING = (Method, PagedMethod, Stream)
_AWAITABLE = (AsyncMethod, AsyncPagedMethod, AsyncStream)


class _Service:
    _descriptor: ServiceDescriptor
    _kinds: tuple[type[Any], type[Any], type[Any]]

    def __init__(
        self, channel: Any, session: Session, overrides: Mapping[str, Callable[..., Any]] = {}
    ) -> None:
        """Create the methods; `overrides` are factories for some of them, by name."""
        safe = retry_safe(self._descriptor)
        method, paged, stream = self._kinds
        for rpc in self._descriptor.methods:
            request = GetMessageClass(rpc.input_type)
            is_paged = "page_token" in rpc.input_type.fields_by_name
            kind = stream if rpc.server_streaming else paged if is_paged else method
            bind = channel.unary_stream if rpc.server_streaming else channel.unary_unary
            call = bind(
                f"/{self._descriptor.full_name}/{rpc.name}",
                request_serializer=request.SerializeToString,
                response_deserializer=GetMessageClass(rpc.output_type).FromString,
            )
            if session.wait_for_ready:
                call = partial(call, wait_for_ready=True)
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", rpc.name).lower()
            create = overrides.get(name, kind)
            setattr(self, name, create(call, request, session, retry_safe=rpc.name in safe))


class Auth(_Service):
    """Authorizations of users, and their access tokens."""

    _descriptor, _kinds = _AUTH, _BLOCKING

    begin_authorization: Method[auth.BeginAuthorizationRequest, auth.BeginAuthorizationResponse]
    """Start an authorization and return the consent URL, which can be used for one authorization and expires after 10 minutes."""
    complete_authorization: Method[auth.CompleteAuthorizationRequest, auth.CompleteAuthorizationResponse]
    """Complete an authorization with the code and state, the ticket, or the whole `callback_url` of the browser. Never retried."""
    get_authorization: Method[auth.GetAuthorizationRequest, auth.GetAuthorizationResponse]
    """Return the outcome of an authorization that this caller started, until the authorization expires."""
    create_token: Method[auth.CreateTokenRequest, auth.CreateTokenResponse]
    """Exchange an authorization code from the caller's own redirect URL. Never retried."""
    get_token: Method[auth.GetTokenRequest, auth.GetTokenResponse]
    """Return an access token that is valid for at least `min_validity` (default 60 seconds, at most 10 minutes)."""
    refresh_token: Method[auth.RefreshTokenRequest, auth.RefreshTokenResponse]
    """Refresh the stored token, even if it is still valid."""
    request_token: Method[auth.RequestTokenRequest, auth.RequestTokenResponse]
    """Exchange a refresh token obtained outside Zoomgate, and store the new tokens. Never retried."""
    import_connection: Method[auth.ImportConnectionRequest, auth.ImportConnectionResponse]
    """Import a token pair that another system stored. `outcome` tells whether the user is connected or must consent."""
    check_token: Method[auth.CheckTokenRequest, auth.CheckTokenResponse]
    """Return whether a token has expired: a token described by `facts`, or the stored token of `user_email`."""
    validate_user: Method[auth.ValidateUserRequest, auth.ValidateUserResponse]
    """Return whether `user_email` is the calling member's address."""
    get_connection: Method[auth.GetConnectionRequest, auth.GetConnectionResponse]
    """Return the connection of a user. Raises `NotConnected` if there is none."""
    list_connections: PagedMethod[auth.ListConnectionsRequest, auth.ListConnectionsResponse, Connection]
    """Return one page of connections. `Client.connections` iterates over all of them, and reports unreadable ones."""
    delete_connection: Method[auth.DeleteConnectionRequest, auth.DeleteConnectionResponse]
    """Disconnect a user and revoke the tokens with Zoom. Raises `NotConnected` if the user is not connected."""
    watch_connections: Stream[auth.WatchConnectionsRequest, auth.WatchConnectionsResponse]
    """Stream connections as they change. Unlike `Client.watch`, does not resume an interrupted stream."""


class Meetings(_Service):
    """Zoom meetings."""

    _descriptor, _kinds = _MEETINGS, _BLOCKING

    create_meeting: Method[meetings.CreateMeetingRequest, meetings.CreateMeetingResponse]
    """Create a meeting. Never retried automatically: after `OutcomeUnknown`, check whether the meeting exists."""
    get_meeting: Method[meetings.GetMeetingRequest, meetings.GetMeetingResponse]
    """Return a meeting. Raises `NotFound` if there is none."""
    list_meetings: PagedMethod[meetings.ListMeetingsRequest, meetings.ListMeetingsResponse, Meeting]
    """Return one page of the meetings of a user. `list_meetings.all` iterates over all of them."""
    update_meeting: Method[meetings.UpdateMeetingRequest, meetings.UpdateMeetingResponse]
    """Change the properties of a meeting, or of one of its occurrences, that `update_mask` names. Never retried automatically."""
    delete_meeting: Method[meetings.DeleteMeetingRequest, meetings.DeleteMeetingResponse]
    """Delete a meeting or one of its occurrences. Raises `NotFound` if the meeting does not exist."""
    recover_meeting: Method[meetings.RecoverMeetingRequest, meetings.RecoverMeetingResponse]
    """Recover a deleted meeting. Never retried automatically."""
    end_meeting: Method[meetings.EndMeetingRequest, meetings.EndMeetingResponse]
    """End a running meeting for all participants. Never retried automatically."""
    get_meeting_invitation: Method[
        meetings.GetMeetingInvitationRequest, meetings.GetMeetingInvitationResponse
    ]
    """Return the text of the invitation to a meeting."""
    get_past_meeting: Method[meetings.GetPastMeetingRequest, meetings.GetPastMeetingResponse]
    """Return a meeting that has ended: an instance by its `meeting_uuid`, or the latest one of a `meeting_id`."""
    list_past_instances: Method[meetings.ListPastInstancesRequest, meetings.ListPastInstancesResponse]
    """Return the ended instances of a meeting."""
    list_past_participants: PagedMethod[
        meetings.ListPastParticipantsRequest, meetings.ListPastParticipantsResponse, Participant
    ]
    """Return one page of the participants of an ended meeting. `list_past_participants.all` iterates over all of them."""


class Registrants(_Service):
    """Registrations for Zoom meetings."""

    _descriptor, _kinds = _REGISTRANTS, _BLOCKING

    add_registrant: Method[registrants.AddRegistrantRequest, registrants.AddRegistrantResponse]
    """Register a person for a meeting. Never retried automatically."""
    list_registrants: PagedMethod[
        registrants.ListRegistrantsRequest, registrants.ListRegistrantsResponse, Registrant
    ]
    """Return one page of the registrations for a meeting. `list_registrants.all` iterates over all of them."""
    get_registrant: Method[registrants.GetRegistrantRequest, registrants.GetRegistrantResponse]
    """Return a registration."""
    update_registrant_status: Method[
        registrants.UpdateRegistrantStatusRequest, registrants.UpdateRegistrantStatusResponse
    ]
    """Approve, deny or cancel registrations. Never retried automatically."""
    delete_registrant: Method[registrants.DeleteRegistrantRequest, registrants.DeleteRegistrantResponse]
    """Delete a registration. Never retried automatically."""


class Proxy(_Service):
    """Requests to any part of Zoom's REST API. 4xx and 5xx responses raise no exception; check `response.status`."""

    _descriptor, _kinds = _PROXY, _BLOCKING

    get: Method[proxy.GetRequest, proxy.GetResponse]
    """Send a GET request to `url`, a path such as `/users/me`."""
    delete: Method[proxy.DeleteRequest, proxy.DeleteResponse]
    """Send a DELETE request. Never retried automatically."""
    post: Method[proxy.PostRequest, proxy.PostResponse]
    """Send a POST request with `json` or `raw`. Never retried automatically."""
    patch: Method[proxy.PatchRequest, proxy.PatchResponse]
    """Send a PATCH request with `json` or `raw`. Never retried automatically."""
    put: Method[proxy.PutRequest, proxy.PutResponse]
    """Send a PUT request with `json` or `raw`. Never retried automatically."""
    list_pages: Stream[proxy.ListPagesRequest, proxy.ListPagesResponse]
    """Stream the pages of a list. `Client.pages` parses them."""
    download: Stream[proxy.DownloadRequest, proxy.DownloadResponse]
    """Stream a file: first its head, then its bytes. Unlike `Client.download`, does not resume an interrupted stream."""


class AsyncAuth(_Service):
    """Asyncio variant of `Auth`."""

    _descriptor, _kinds = _AUTH, _AWAITABLE

    begin_authorization: AsyncMethod[auth.BeginAuthorizationRequest, auth.BeginAuthorizationResponse]
    complete_authorization: AsyncMethod[auth.CompleteAuthorizationRequest, auth.CompleteAuthorizationResponse]
    get_authorization: AsyncMethod[auth.GetAuthorizationRequest, auth.GetAuthorizationResponse]
    create_token: AsyncMethod[auth.CreateTokenRequest, auth.CreateTokenResponse]
    get_token: AsyncMethod[auth.GetTokenRequest, auth.GetTokenResponse]
    refresh_token: AsyncMethod[auth.RefreshTokenRequest, auth.RefreshTokenResponse]
    request_token: AsyncMethod[auth.RequestTokenRequest, auth.RequestTokenResponse]
    import_connection: AsyncMethod[auth.ImportConnectionRequest, auth.ImportConnectionResponse]
    check_token: AsyncMethod[auth.CheckTokenRequest, auth.CheckTokenResponse]
    validate_user: AsyncMethod[auth.ValidateUserRequest, auth.ValidateUserResponse]
    get_connection: AsyncMethod[auth.GetConnectionRequest, auth.GetConnectionResponse]
    list_connections: AsyncPagedMethod[auth.ListConnectionsRequest, auth.ListConnectionsResponse, Connection]
    delete_connection: AsyncMethod[auth.DeleteConnectionRequest, auth.DeleteConnectionResponse]
    watch_connections: AsyncStream[auth.WatchConnectionsRequest, auth.WatchConnectionsResponse]


class AsyncMeetings(_Service):
    """Asyncio variant of `Meetings`."""

    _descriptor, _kinds = _MEETINGS, _AWAITABLE

    create_meeting: AsyncMethod[meetings.CreateMeetingRequest, meetings.CreateMeetingResponse]
    get_meeting: AsyncMethod[meetings.GetMeetingRequest, meetings.GetMeetingResponse]
    list_meetings: AsyncPagedMethod[meetings.ListMeetingsRequest, meetings.ListMeetingsResponse, Meeting]
    update_meeting: AsyncMethod[meetings.UpdateMeetingRequest, meetings.UpdateMeetingResponse]
    delete_meeting: AsyncMethod[meetings.DeleteMeetingRequest, meetings.DeleteMeetingResponse]
    recover_meeting: AsyncMethod[meetings.RecoverMeetingRequest, meetings.RecoverMeetingResponse]
    end_meeting: AsyncMethod[meetings.EndMeetingRequest, meetings.EndMeetingResponse]
    get_meeting_invitation: AsyncMethod[
        meetings.GetMeetingInvitationRequest, meetings.GetMeetingInvitationResponse
    ]
    get_past_meeting: AsyncMethod[meetings.GetPastMeetingRequest, meetings.GetPastMeetingResponse]
    list_past_instances: AsyncMethod[meetings.ListPastInstancesRequest, meetings.ListPastInstancesResponse]
    list_past_participants: AsyncPagedMethod[
        meetings.ListPastParticipantsRequest, meetings.ListPastParticipantsResponse, Participant
    ]


class AsyncRegistrants(_Service):
    """Asyncio variant of `Registrants`."""

    _descriptor, _kinds = _REGISTRANTS, _AWAITABLE

    add_registrant: AsyncMethod[registrants.AddRegistrantRequest, registrants.AddRegistrantResponse]
    list_registrants: AsyncPagedMethod[
        registrants.ListRegistrantsRequest, registrants.ListRegistrantsResponse, Registrant
    ]
    get_registrant: AsyncMethod[registrants.GetRegistrantRequest, registrants.GetRegistrantResponse]
    update_registrant_status: AsyncMethod[
        registrants.UpdateRegistrantStatusRequest, registrants.UpdateRegistrantStatusResponse
    ]
    delete_registrant: AsyncMethod[registrants.DeleteRegistrantRequest, registrants.DeleteRegistrantResponse]


class AsyncProxy(_Service):
    """Asyncio variant of `Proxy`."""

    _descriptor, _kinds = _PROXY, _AWAITABLE

    get: AsyncMethod[proxy.GetRequest, proxy.GetResponse]
    delete: AsyncMethod[proxy.DeleteRequest, proxy.DeleteResponse]
    post: AsyncMethod[proxy.PostRequest, proxy.PostResponse]
    patch: AsyncMethod[proxy.PatchRequest, proxy.PatchResponse]
    put: AsyncMethod[proxy.PutRequest, proxy.PutResponse]
    list_pages: AsyncStream[proxy.ListPagesRequest, proxy.ListPagesResponse]
    download: AsyncStream[proxy.DownloadRequest, proxy.DownloadResponse]
