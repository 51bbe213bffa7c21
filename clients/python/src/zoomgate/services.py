"""The services of the contract, each RPC as a method in Python's spelling.

Who may call an RPC, its limits and its errors stand on the contract's `rpc` comments (`proto/zoomgate/v1/`); fields and their units on
the messages. The classes here hold nothing but the binding, twice: to block and to await.
"""

import re
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from zoomgate._channel import SERVICES, retry_safe
from zoomgate._methods import AsyncMethod, AsyncStream, Method, Session, Stream
from zoomgate.v1 import auth_service_pb2 as auth
from zoomgate.v1 import meetings_service_pb2 as meetings
from zoomgate.v1 import proxy_service_pb2 as proxy

_AUTH, _MEETINGS, _PROXY = SERVICES


class _Service:
    _descriptor: ServiceDescriptor
    _method: type[Method[Any, Any]] | type[AsyncMethod[Any, Any]]
    _stream: type[Stream[Any, Any]] | type[AsyncStream[Any, Any]]

    def __init__(self, channel: Any, session: Session) -> None:
        safe = retry_safe(self._descriptor)
        for rpc in self._descriptor.methods:
            request = GetMessageClass(rpc.input_type)
            bind, kind = (
                (channel.unary_stream, self._stream)
                if rpc.server_streaming
                else (channel.unary_unary, self._method)
            )
            call = bind(
                f"/{self._descriptor.full_name}/{rpc.name}",
                request_serializer=request.SerializeToString,
                response_deserializer=GetMessageClass(rpc.output_type).FromString,
            )
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", rpc.name).lower()
            setattr(self, name, kind(call, request, session, retry_safe=rpc.name in safe))


class Auth(_Service):
    """People's authorizations, and the access tokens that come from them."""

    _descriptor, _method, _stream = _AUTH, Method, Stream

    begin_authorization: Method[auth.BeginAuthorizationRequest, auth.BeginAuthorizationResponse]
    """Make a link where a person consents; it works once, for 10 minutes."""
    complete_authorization: Method[auth.CompleteAuthorizationRequest, auth.CompleteAuthorizationResponse]
    """Finish what was begun, with the code and state, or the ticket, that the browser brought back. Works once."""
    create_token: Method[auth.CreateTokenRequest, auth.CreateTokenResponse]
    """Exchange a code that the caller received itself. Works once."""
    get_token: Method[auth.GetTokenRequest, auth.GetTokenResponse]
    """Give an access token that is valid for `min_validity` (default 60 seconds, at most 10 minutes) or longer."""
    refresh_token: Method[auth.RefreshTokenRequest, auth.RefreshTokenResponse]
    """Refresh the stored token now."""
    request_token: Method[auth.RequestTokenRequest, auth.RequestTokenResponse]
    """Spend a refresh token that the caller brings, and keep what comes back. Works once."""
    check_token: Method[auth.CheckTokenRequest, auth.CheckTokenResponse]
    """Tell whether a token is expired: of given facts, or of the one that is kept for `user_email`."""
    validate_user: Method[auth.ValidateUserRequest, auth.ValidateUserResponse]
    """Tell whether the calling member is that user."""
    get_connection: Method[auth.GetConnectionRequest, auth.GetConnectionResponse]
    """Show one person's connection. Raises `NotConnected` for somebody unknown."""
    list_connections: Method[auth.ListConnectionsRequest, auth.ListConnectionsResponse]
    """List connections, one page at a time; `Client.connections` follows the pages."""
    delete_connection: Method[auth.DeleteConnectionRequest, auth.DeleteConnectionResponse]
    """End a connection and revoke its tokens at Zoom. Raises `NotConnected` for somebody unknown."""
    watch_connections: Stream[auth.WatchConnectionsRequest, auth.WatchConnectionsResponse]
    """Tell of connections as they change, until the stream breaks off; `Client.watch` goes on then."""


class Meetings(_Service):
    """Zoom meetings, typed."""

    _descriptor, _method, _stream = _MEETINGS, Method, Stream

    create_meeting: Method[meetings.CreateMeetingRequest, meetings.CreateMeetingResponse]
    """Schedule a meeting. Never repeated by itself: after `OutcomeUnknown` look whether it exists."""
    get_meeting: Method[meetings.GetMeetingRequest, meetings.GetMeetingResponse]
    """Show a meeting. Raises `NotFound`."""
    delete_meeting: Method[meetings.DeleteMeetingRequest, meetings.DeleteMeetingResponse]
    """Delete a meeting, or one occurrence of it. Raises `NotFound`."""


class Proxy(_Service):
    """Any call of Zoom's REST API. A complete answer of Zoom is data, 4xx and 5xx included: look at `response.status`."""

    _descriptor, _method, _stream = _PROXY, Method, Stream

    get: Method[proxy.GetRequest, proxy.GetResponse]
    """Send a GET to `url`, a path such as `/users/me`."""
    delete: Method[proxy.DeleteRequest, proxy.DeleteResponse]
    """Send a DELETE. Never repeated by itself."""
    post: Method[proxy.PostRequest, proxy.PostResponse]
    """Send a POST with `json` or `raw`. Never repeated by itself."""
    patch: Method[proxy.PatchRequest, proxy.PatchResponse]
    """Send a PATCH with `json` or `raw`. Never repeated by itself."""
    put: Method[proxy.PutRequest, proxy.PutResponse]
    """Send a PUT with `json` or `raw`. Never repeated by itself."""


class AsyncAuth(_Service):
    """As `Auth`, to await."""

    _descriptor, _method, _stream = _AUTH, AsyncMethod, AsyncStream

    begin_authorization: AsyncMethod[auth.BeginAuthorizationRequest, auth.BeginAuthorizationResponse]
    complete_authorization: AsyncMethod[auth.CompleteAuthorizationRequest, auth.CompleteAuthorizationResponse]
    create_token: AsyncMethod[auth.CreateTokenRequest, auth.CreateTokenResponse]
    get_token: AsyncMethod[auth.GetTokenRequest, auth.GetTokenResponse]
    refresh_token: AsyncMethod[auth.RefreshTokenRequest, auth.RefreshTokenResponse]
    request_token: AsyncMethod[auth.RequestTokenRequest, auth.RequestTokenResponse]
    check_token: AsyncMethod[auth.CheckTokenRequest, auth.CheckTokenResponse]
    validate_user: AsyncMethod[auth.ValidateUserRequest, auth.ValidateUserResponse]
    get_connection: AsyncMethod[auth.GetConnectionRequest, auth.GetConnectionResponse]
    list_connections: AsyncMethod[auth.ListConnectionsRequest, auth.ListConnectionsResponse]
    delete_connection: AsyncMethod[auth.DeleteConnectionRequest, auth.DeleteConnectionResponse]
    watch_connections: AsyncStream[auth.WatchConnectionsRequest, auth.WatchConnectionsResponse]


class AsyncMeetings(_Service):
    """As `Meetings`, to await."""

    _descriptor, _method, _stream = _MEETINGS, AsyncMethod, AsyncStream

    create_meeting: AsyncMethod[meetings.CreateMeetingRequest, meetings.CreateMeetingResponse]
    get_meeting: AsyncMethod[meetings.GetMeetingRequest, meetings.GetMeetingResponse]
    delete_meeting: AsyncMethod[meetings.DeleteMeetingRequest, meetings.DeleteMeetingResponse]


class AsyncProxy(_Service):
    """As `Proxy`, to await."""

    _descriptor, _method, _stream = _PROXY, AsyncMethod, AsyncStream

    get: AsyncMethod[proxy.GetRequest, proxy.GetResponse]
    delete: AsyncMethod[proxy.DeleteRequest, proxy.DeleteResponse]
    post: AsyncMethod[proxy.PostRequest, proxy.PostResponse]
    patch: AsyncMethod[proxy.PatchRequest, proxy.PatchResponse]
    put: AsyncMethod[proxy.PutRequest, proxy.PutResponse]
