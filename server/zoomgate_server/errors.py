"""The errors of the service, independent of gRPC and HTTP.

`rpc/middleware/error_status.py` maps each class to the gRPC status that callers receive. Callers can read an error's message and metadata;
details for operators belong in `internal`. Neither the message, the metadata nor `internal` may contain a token, an authorization code, a
key or a secret.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """An invalid field of a request.

    Attributes:
        field: The path of the field in the request, such as `meeting_details.topic` or `query[3].name`.
        description: The violated rule and the correction, as a sentence without a subject, such as `must be true or false`.
    """

    field: str
    description: str


class ZoomgateError(Exception):
    """Base class of all errors that callers can receive.

    Args:
        message: The public message: one sentence of at most 1 KiB. May be omitted if the class has a fixed text.
        metadata: Public, machine-readable details. Returned as the metadata of `ErrorInfo`.
        internal: Details for the log and the audit trail only. Must not contain secrets.
    """

    message = ""
    retry_after: float | None = None

    def __init__(
        self,
        message: str = "",
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        internal: str = "",
    ) -> None:
        self.message = message or self.message
        self.metadata = dict(metadata or {})
        self.retry_after = self.retry_after if retry_after is None else retry_after
        self.internal = internal
        super().__init__(self.message)


CONNECTION_PENDING: Mapping[str, str] = {"connection": "pending"}
"""Metadata of an error after which the connection is created automatically, without a new consent."""


class CallerUnauthenticated(ZoomgateError):
    """The credential is missing, malformed or unknown."""


class CallerNotAllowed(ZoomgateError):
    """The caller is not permitted to make this call, for example because of its method, user or path."""

    message = "The caller does not have permission for this call"


class InvalidRequest(ZoomgateError):
    """One or more fields of the request are invalid. `violations` lists all of them."""

    def __init__(
        self, violations: Sequence[FieldViolation], metadata: Mapping[str, str] | None = None
    ) -> None:
        self.violations = tuple(violations)
        message = "; ".join(
            f"{violation.field}: {violation.description}" for violation in self.violations[:5]
        )
        super().__init__(
            message[:1000],
            metadata={"fields": ",".join(violation.field for violation in self.violations)[:500]}
            | dict(metadata or {}),
        )

    @classmethod
    def of(cls, field: str, description: str, metadata: Mapping[str, str] | None = None) -> Self:
        """Return the error for a single invalid field."""
        return cls([FieldViolation(field, description)], metadata)


class InvalidPath(InvalidRequest):
    """The URL of a proxy call is not a path of Zoom's REST API."""


class HeaderNotAllowed(InvalidRequest):
    """A proxy request contains a header that callers may not set."""


class InvalidPageToken(InvalidRequest):
    """The page token was not returned by this RPC for the same caller and filters, or Zoom no longer accepts it."""


class InvalidResumeToken(InvalidRequest):
    """The resume token was not issued to this caller for the same users."""


class ResumeTokenExpired(ZoomgateError):
    """The resume token is dated in the future, or is older than 30 days (the retention period of disconnected users)."""


class MalformedRequest(ZoomgateError):
    """The request could not be parsed as the method's request message."""


class RequestTooLarge(ZoomgateError):
    """The request exceeds the size limit."""


class NotSupported(ZoomgateError):
    """The endpoint for RPCs over HTTP does not have this RPC, or does not support this kind of request."""


class InvalidState(ZoomgateError):
    """The state or ticket is unknown, used or expired, or belongs to a different caller."""


class CodeRefused(ZoomgateError):
    """Zoom rejected the authorization code."""


class AuthorizationDeclined(ZoomgateError):
    """Zoom returned an error instead of an authorization code, usually because the user declined."""


class AuthorizationRequestRefused(AuthorizationDeclined):
    """Zoom returned an error instead of an authorization code, because of the configuration of the app."""


class IdentityMismatch(ZoomgateError):
    """The Zoom user who consented is not the requested user."""


class OtherUserConnected(IdentityMismatch):
    """The Zoom user who consented is not the requested user, and is connected under a different address."""


class ZoomUserAlreadyConnected(ZoomgateError):
    """The Zoom user who consented is connected under a different email address."""


class NotConnected(ZoomgateError):
    """The call requires a connection, and the user has none."""

    message = "This user is not connected to Zoom; call BeginAuthorization and have the user consent"


class ConnectionNotFound(ZoomgateError):
    """The requested connection does not exist."""

    message = "This user has no connection"


class ReauthRequired(ZoomgateError):
    """Zoom no longer accepts the user's authorization. `cause` in the metadata states the reason."""


class ScopeMissing(ZoomgateError):
    """The user's consent does not cover the call. `scopes` in the metadata names the scopes, any one of which suffices."""


class RefreshInProgress(ZoomgateError):
    """The user's token is being refreshed, or the outcome of the last refresh is unknown."""


class StoreUnavailable(ZoomgateError):
    """The public form of `StoreError`: the store cannot be reached or does not accept writes."""

    message = "The token store is unavailable; retry in a moment"
    retry_after = 1.0


class AuditUnavailable(ZoomgateError):
    """The audit trail cannot be written. Operations that must be recorded, such as returning a token, are not performed."""


class RecordFault(ZoomgateError):
    """Base class of errors for stored records that cannot be decrypted. Only its three subclasses are raised."""


class RecordUnreadable(RecordFault):
    """The stored record is corrupt or was tampered with."""


class RecordVersionUnsupported(RecordFault):
    """The record has a format version that this release does not support."""


class KeyUnavailable(RecordFault):
    """The key that encrypts the record is not in the key ring."""


class AppCredentialsRejected(ZoomgateError):
    """Zoom rejected the client ID or secret of this service."""


class RedirectUriRefused(ZoomgateError):
    """Zoom rejected the redirect URI of this service. The authorization code was not exchanged."""


class TokenRequestRefused(ZoomgateError):
    """Zoom refused to exchange a code or refresh token for a reason that Zoom does not document. Connections are unchanged."""


class ZoomRateLimited(ZoomgateError):
    """A rate limit of Zoom is reached."""


class ServerOverloaded(ZoomgateError):
    """A limit of this service is reached."""


class ZoomUnavailable(ZoomgateError):
    """Zoom could not be reached, or did not respond properly to a read. The call changed nothing."""


class ZoomOutcomeUnknown(ZoomgateError):
    """The call may have taken effect: Zoom's response was lost or does not prove the outcome, or the server shut down during the call."""


class ZoomBadResponse(ZoomgateError):
    """Zoom's response is a redirect, or JSON that is not documented. Only a token request may have taken effect."""


class ZoomResponseTooLarge(ZoomgateError):
    """Zoom's response exceeds the size limit of this service. Zoom has processed the request."""


class RedirectNotAllowed(ZoomgateError):
    """Zoom redirected a download to a URL to which downloads are not allowed, or too often."""


class DownloadNotResumable(ZoomgateError):
    """The rest of a download cannot be delivered. `cause` in the metadata states the reason."""


class MeetingNotFound(ZoomgateError):
    """The user has no meeting with this ID."""

    message = "The user has no such meeting in Zoom; check the meeting ID"


class RegistrantNotFound(ZoomgateError):
    """The meeting has no registration with this ID."""

    message = "The meeting has no such registration in Zoom; check the ID of the registration"


class ZoomRefusedArguments(ZoomgateError):
    """Zoom responded with 400, or a status without a class of its own, to the request of an RPC other than those of ProxyService."""


class ZoomRefusedPermission(ZoomgateError):
    """Zoom responded with 403 to the request of an RPC other than those of ProxyService."""


class ZoomRefusedConflict(ZoomgateError):
    """Zoom responded with 409 to the request of an RPC other than those of ProxyService."""


class ZoomRefusedNotFound(ZoomgateError):
    """Zoom responded with 404 to the request of an RPC other than those of ProxyService, and no more specific reason is known."""


class DeadlineTooShort(ZoomgateError):
    """Too little of the caller's deadline is left to call Zoom, or the request did not arrive in time. Nothing was sent."""

    message = "Not enough time was left before the deadline to call Zoom; nothing was sent"


class DeadlineExceeded(ZoomgateError):
    """The caller's deadline passed during the call, which may have taken effect unless it was a read."""

    message = "The deadline has passed; the call may have taken effect"


class ShuttingDown(ZoomgateError):
    """This server is shutting down. The call is safe to retry; a refresh that it started continues."""

    message = "This server is shutting down; retry the call, or resume the stream"
    retry_after = 1.0


class Unexpected(ZoomgateError):
    """An unexpected failure. The message is fixed to avoid disclosing internal details."""
