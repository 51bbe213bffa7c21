"""What can go wrong, in our words.

Nothing here knows of gRPC or HTTP: `interceptors/status.py` has the one table from these classes to what callers see. The message
of an error and its metadata are public; what only the operator may read goes into `internal`. None of the three ever holds a token,
a code, a key or a secret.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field of a request.

    Attributes:
        field: Path of the field as the caller wrote it, such as `meeting_details.topic` or `query[3].name`.
        description: The rule and what to send instead, in one sentence.
    """

    field: str
    description: str


class ZoomgateError(Exception):
    """A failure that callers may be told about.

    Args:
        message: Public text: one sentence, at most 1 KiB.
        metadata: Public facts for programs; they become the metadata of `ErrorInfo`.
        retry_after: Seconds after which a repetition makes sense, or None.
        internal: More for the log, free of secrets.
    """

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        internal: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.internal = internal


class CallerUnauthenticated(ZoomgateError):
    """The credential is missing, malformed or unknown."""


class CallerNotAllowed(ZoomgateError):
    """The caller may not call this method, act for this user, or see this secret."""


class InvalidRequest(ZoomgateError):
    """Fields of the request are wrong; all of them are listed."""

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        self.violations = tuple(violations)
        super().__init__(
            "; ".join(f"{violation.field}: {violation.description}" for violation in self.violations[:5])[
                :1000
            ],
            metadata={"fields": ",".join(violation.field for violation in self.violations)[:500]},
        )


class InvalidPath(InvalidRequest):
    """The proxy's target is no path of Zoom's REST API."""


class HeaderNotAllowed(InvalidRequest):
    """A header that callers may not set."""


class InvalidPageToken(InvalidRequest):
    """The page token is not one that this call gave."""


class InvalidResumeToken(InvalidRequest):
    """The resume token is not one that this call gave."""


class ResumeTokenExpired(ZoomgateError):
    """The resume token is of a time of which not everything is remembered any more."""


class MalformedRequest(ZoomgateError):
    """The bytes of the request are no message of its type."""


class InvalidState(ZoomgateError):
    """The state or ticket is unknown, used, expired, or somebody else's."""


class CodeRefused(ZoomgateError):
    """Zoom refused the authorization code."""


class IdentityMismatch(ZoomgateError):
    """The person who consented is not the user that was asked for."""


class NotConnected(ZoomgateError):
    """The user has no connection, and the call needs one."""


class ConnectionNotFound(ZoomgateError):
    """The user has no connection, and the call is about the connection itself."""


class ReauthRequired(ZoomgateError):
    """Zoom no longer accepts the user's authorization; `cause` in the metadata says why."""


class ScopeMissing(ZoomgateError):
    """The consent does not cover the call; `scopes` in the metadata names what Zoom asks for."""


class RefreshInProgress(ZoomgateError):
    """The user's token is being refreshed, or the outcome of a refresh is in doubt."""


class StoreUnavailable(ZoomgateError):
    """The store cannot be reached or does not take writes."""


class AuditUnavailable(ZoomgateError):
    """The audit trail cannot be written, and what was asked for is not done without its line."""


class RecordFault(ZoomgateError):
    """A stored record cannot be opened; always one of the three below, which tell why."""


class RecordUnreadable(RecordFault):
    """A stored record is damaged or was tampered with."""


class RecordVersionUnsupported(RecordFault):
    """The record has a format version that this release does not read."""


class KeyUnavailable(RecordFault):
    """The key that sealed a record is not in the key ring."""


class AppCredentialsRejected(ZoomgateError):
    """Zoom refuses our own client id or secret."""


class ZoomRateLimited(ZoomgateError):
    """Zoom answered 429."""


class ServerOverloaded(ZoomgateError):
    """A limit of this service is reached."""


class ZoomUnavailable(ZoomgateError):
    """Zoom could not be reached or answered 5xx, and this call changed nothing."""


class ZoomOutcomeUnknown(ZoomgateError):
    """The call was sent, its answer was lost, and it may have taken effect."""


class ZoomBadResponse(ZoomgateError):
    """Zoom's answer cannot be understood."""


class ZoomResponseTooLarge(ZoomgateError):
    """Zoom's answer is larger than this service takes."""


class MeetingNotFound(ZoomgateError):
    """Zoom knows no such meeting of this user."""


class ZoomRefusedArguments(ZoomgateError):
    """Zoom refused a typed call with 400."""


class ZoomRefusedPermission(ZoomgateError):
    """Zoom refused a typed call with 403."""


class ZoomRefusedConflict(ZoomgateError):
    """Zoom refused a typed call with 409."""


class ZoomRefusedNotFound(ZoomgateError):
    """Zoom refused a typed call with 404 and no better reason is known."""


class DeadlineTooShort(ZoomgateError):
    """Too little of the caller's deadline is left to start."""


class ShuttingDown(ZoomgateError):
    """This server is draining."""


class Unexpected(ZoomgateError):
    """A failure that nobody foresaw; its text is fixed."""


def store_unavailable() -> StoreUnavailable:
    """The error for a store that fails."""
    return StoreUnavailable("The token store does not answer: call again in a moment", retry_after=1.0)


def not_connected() -> NotConnected:
    """The error for a user without a connection."""
    return NotConnected(
        "This user is not connected to Zoom: call BeginAuthorization and let the person consent"
    )
