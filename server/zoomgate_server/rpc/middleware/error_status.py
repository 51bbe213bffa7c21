"""Conversion of errors to gRPC statuses: code, reason and details.

This stage also works around two problems of grpc.aio. If a handler raises `CancelledError` although its call was not canceled, grpc.aio
sends no status and the caller waits forever. If a handler raises any other exception, grpc.aio sends the exception text to the caller.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf import any as any_message
from google.protobuf import duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from zoomgate.v1.error_reason_pb2 import ErrorReason
from zoomgate_server import errors
from zoomgate_server.call_context import current_rejection, current_request_id, current_unknown_outcome
from zoomgate_server.rpc.middleware.pipeline import Context, Handler, Method
from zoomgate_server.storage.record_store import StoreError
from zoomgate_server.telemetry import logs

DOMAIN = "zoomgate"
MAX_MESSAGE = 1024
"""Maximum size of a message in bytes, after gRPC's percent-encoding."""

MAX_DETAILS = 4096
"""Maximum size of the details in bytes. Message and details together stay below 8 KiB, the default header limit of gRPC clients."""

_MAX_INFO = 1024
"""Maximum size of the ErrorInfo metadata in bytes."""

_MAX_REPEATED = 512
"""Maximum size in bytes of a copy of the message in the details."""

_C = grpc.StatusCode
_R = ErrorReason

MAPPING: Mapping[type[errors.ZoomgateError], tuple[grpc.StatusCode, "ErrorReason.ValueType"]] = {
    errors.CallerUnauthenticated: (_C.UNAUTHENTICATED, _R.ERROR_REASON_CALLER_UNAUTHENTICATED),
    errors.CallerNotAllowed: (_C.PERMISSION_DENIED, _R.ERROR_REASON_CALLER_NOT_ALLOWED),
    errors.InvalidRequest: (_C.INVALID_ARGUMENT, _R.ERROR_REASON_INVALID_FIELD),
    errors.MalformedRequest: (_C.INVALID_ARGUMENT, _R.ERROR_REASON_MALFORMED_REQUEST),
    errors.RequestTooLarge: (_C.RESOURCE_EXHAUSTED, _R.ERROR_REASON_REQUEST_TOO_LARGE),
    errors.NotSupported: (_C.UNIMPLEMENTED, _R.ERROR_REASON_NOT_SUPPORTED),
    errors.InvalidState: (_C.INVALID_ARGUMENT, _R.ERROR_REASON_INVALID_STATE),
    errors.CodeRefused: (_C.INVALID_ARGUMENT, _R.ERROR_REASON_CODE_REFUSED),
    errors.AuthorizationDeclined: (
        _C.FAILED_PRECONDITION,
        _R.ERROR_REASON_AUTHORIZATION_DECLINED,
    ),
    errors.AuthorizationRequestRefused: (
        _C.FAILED_PRECONDITION,
        _R.ERROR_REASON_AUTHORIZATION_DECLINED,
    ),
    errors.IdentityMismatch: (_C.FAILED_PRECONDITION, _R.ERROR_REASON_IDENTITY_MISMATCH),
    errors.OtherUserConnected: (_C.FAILED_PRECONDITION, _R.ERROR_REASON_IDENTITY_MISMATCH),
    errors.ZoomUserAlreadyConnected: (_C.FAILED_PRECONDITION, _R.ERROR_REASON_ZOOM_USER_ALREADY_CONNECTED),
    errors.InvalidPath: (_C.INVALID_ARGUMENT, _R.ERROR_REASON_INVALID_PATH),
    errors.HeaderNotAllowed: (_C.INVALID_ARGUMENT, _R.ERROR_REASON_HEADER_NOT_ALLOWED),
    errors.InvalidPageToken: (_C.INVALID_ARGUMENT, _R.ERROR_REASON_INVALID_PAGE_TOKEN),
    errors.InvalidResumeToken: (_C.INVALID_ARGUMENT, _R.ERROR_REASON_INVALID_RESUME_TOKEN),
    errors.ResumeTokenExpired: (_C.OUT_OF_RANGE, _R.ERROR_REASON_RESUME_TOKEN_EXPIRED),
    errors.MeetingNotFound: (_C.NOT_FOUND, _R.ERROR_REASON_MEETING_NOT_FOUND),
    errors.RegistrantNotFound: (_C.NOT_FOUND, _R.ERROR_REASON_REGISTRANT_NOT_FOUND),
    errors.NotConnected: (_C.FAILED_PRECONDITION, _R.ERROR_REASON_ZOOM_NOT_CONNECTED),
    errors.ConnectionNotFound: (_C.NOT_FOUND, _R.ERROR_REASON_ZOOM_NOT_CONNECTED),
    errors.ReauthRequired: (_C.FAILED_PRECONDITION, _R.ERROR_REASON_ZOOM_REAUTH_REQUIRED),
    errors.ScopeMissing: (_C.FAILED_PRECONDITION, _R.ERROR_REASON_ZOOM_SCOPE_MISSING),
    errors.RefreshInProgress: (_C.UNAVAILABLE, _R.ERROR_REASON_REFRESH_IN_PROGRESS),
    errors.StoreUnavailable: (_C.UNAVAILABLE, _R.ERROR_REASON_STORE_UNAVAILABLE),
    errors.AuditUnavailable: (_C.UNAVAILABLE, _R.ERROR_REASON_AUDIT_UNAVAILABLE),
    errors.RecordUnreadable: (_C.DATA_LOSS, _R.ERROR_REASON_RECORD_UNREADABLE),
    errors.RecordVersionUnsupported: (_C.INTERNAL, _R.ERROR_REASON_RECORD_VERSION),
    errors.KeyUnavailable: (_C.INTERNAL, _R.ERROR_REASON_KEY_UNAVAILABLE),
    errors.AppCredentialsRejected: (_C.INTERNAL, _R.ERROR_REASON_APP_CREDENTIALS_REJECTED),
    errors.RedirectUriRefused: (_C.INTERNAL, _R.ERROR_REASON_REDIRECT_URI_REFUSED),
    errors.TokenRequestRefused: (_C.FAILED_PRECONDITION, _R.ERROR_REASON_TOKEN_REQUEST_REFUSED),
    errors.ZoomRateLimited: (_C.RESOURCE_EXHAUSTED, _R.ERROR_REASON_ZOOM_RATE_LIMITED),
    errors.ServerOverloaded: (_C.RESOURCE_EXHAUSTED, _R.ERROR_REASON_SERVER_OVERLOADED),
    errors.ZoomUnavailable: (_C.UNAVAILABLE, _R.ERROR_REASON_ZOOM_UNAVAILABLE),
    errors.ZoomOutcomeUnknown: (_C.UNKNOWN, _R.ERROR_REASON_ZOOM_OUTCOME_UNKNOWN),
    errors.ZoomBadResponse: (_C.INTERNAL, _R.ERROR_REASON_ZOOM_BAD_RESPONSE),
    errors.ZoomResponseTooLarge: (_C.RESOURCE_EXHAUSTED, _R.ERROR_REASON_ZOOM_RESPONSE_TOO_LARGE),
    errors.RedirectNotAllowed: (_C.FAILED_PRECONDITION, _R.ERROR_REASON_REDIRECT_NOT_ALLOWED),
    errors.DownloadNotResumable: (_C.ABORTED, _R.ERROR_REASON_DOWNLOAD_NOT_RESUMABLE),
    errors.ZoomRefusedArguments: (_C.INVALID_ARGUMENT, _R.ERROR_REASON_ZOOM_REFUSED),
    errors.ZoomRefusedPermission: (_C.PERMISSION_DENIED, _R.ERROR_REASON_ZOOM_REFUSED),
    errors.ZoomRefusedConflict: (_C.FAILED_PRECONDITION, _R.ERROR_REASON_ZOOM_REFUSED),
    errors.ZoomRefusedNotFound: (_C.NOT_FOUND, _R.ERROR_REASON_ZOOM_REFUSED),
    errors.DeadlineTooShort: (_C.DEADLINE_EXCEEDED, _R.ERROR_REASON_DEADLINE_TOO_SHORT),
    errors.DeadlineExceeded: (_C.DEADLINE_EXCEEDED, _R.ERROR_REASON_DEADLINE_EXCEEDED),
    errors.ShuttingDown: (_C.UNAVAILABLE, _R.ERROR_REASON_SHUTTING_DOWN),
    errors.Unexpected: (_C.INTERNAL, _R.ERROR_REASON_INTERNAL),
}
"""The gRPC code and reason of every error class."""

_log = logs.get("zoomgate.status")


def convert_errors(method: Method, respond: Handler) -> Handler:
    """Convert the exceptions of a method to gRPC statuses. A stage of the pipeline."""

    async def convert(request: Any, context: Context) -> Any:
        request_id = current_request_id.get("")
        try:
            return await respond(request, context)
        except errors.ZoomgateError as error:
            failure = error
        except grpc.aio.AbortError:
            raise
        except grpc.aio.InternalError:
            # a write failed because the caller has left; gRPC cancels the call only later
            raise asyncio.CancelledError from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # the caller canceled the call
            failure = current_unknown_outcome.get() or errors.ShuttingDown(
                "The call was aborted by the server; retry"
            )
            _log.warning("rpc.abandoned", method=method.name, request_id=request_id)
        except StoreError as error:
            failure = errors.StoreUnavailable(internal=str(error))
        except Exception:  # noqa: BLE001 - the text is logged, but must not be sent to the caller
            _log.exception("rpc.failed", method=method.name, request_id=request_id)
            failure = errors.Unexpected(
                "Internal error; see the server log for this request_id", metadata={"request_id": request_id}
            )
        if failure.internal:
            _log.info("rpc.rejected", method=method.name, request_id=request_id, cause=failure.internal)
        if isinstance(failure, errors.CallerNotAllowed):
            failure.metadata["method"] = method.name
        current_rejection.set(reason_of(failure))
        status = rpc_status.to_status(status_of(failure))
        # abort replaces the trailing metadata, so the existing entries (the request ID) are included
        trailing = (
            *(context.trailing_metadata() or ()),
            *status.trailing_metadata,
            *_pushback(failure, context.time_remaining()),
        )
        # its traceback refers to this frame, and such a cycle would retain the request until the next garbage collection
        del failure
        await context.abort(status.code, status.details, trailing)
        return None

    return convert


def reason_of(error: errors.ZoomgateError) -> str:
    """Return an error's ErrorReason without the `ERROR_REASON_` prefix."""
    return _R.Name(MAPPING[type(error)][1]).removeprefix("ERROR_REASON_")


def status_of(error: errors.ZoomgateError) -> status_pb2.Status:
    """Return the status of an error, including its details."""
    code, name = MAPPING[type(error)][0], reason_of(error)
    message = _clipped(error.message, MAX_MESSAGE)
    repeated = _clipped(error.message, _MAX_REPEATED)
    info = error_details_pb2.ErrorInfo(reason=name, domain=DOMAIN, metadata=_metadata(error.metadata))
    details: list[Any] = [info]
    if (milliseconds := _retry_milliseconds(error)) is not None:
        delay = duration.from_milliseconds(milliseconds)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(error, errors.InvalidRequest):
        details.append(_bad_request(error))
    elif isinstance(error, errors.ZoomRateLimited):
        violation = error_details_pb2.QuotaFailure.Violation(
            subject=_clipped(error.metadata.get("limit_type", "zoom"), 64), description=repeated
        )
        details.append(error_details_pb2.QuotaFailure(violations=[violation]))
    elif code is _C.FAILED_PRECONDITION:
        unmet = error_details_pb2.PreconditionFailure.Violation(type=name, description=repeated)
        details.append(error_details_pb2.PreconditionFailure(violations=[unmet]))
    return status_pb2.Status(code=code.value[0], message=message, details=map(any_message.pack, details))


def _retry_milliseconds(error: errors.ZoomgateError) -> int | None:
    return None if error.retry_after is None else max(1, int(error.retry_after * 1000))


def _pushback(error: errors.ZoomgateError, remaining: float | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata that makes gRPC clients wait for the delay in RetryInfo before an automatic retry.

    If the deadline of the call is earlier, it prevents the retry: the client would wait for its deadline and never receive this error
    (https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback).

    Args:
        remaining: Seconds until the deadline of the call, or None.
    """
    milliseconds = _retry_milliseconds(error)
    if milliseconds is None:
        return ()
    is_in_time = remaining is None or milliseconds < remaining * 1000
    return (("grpc-retry-pushback-ms", str(milliseconds if is_in_time else -1)),)


def _metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata entries that fit into the size limit."""
    result: dict[str, str] = {}
    remaining = _MAX_INFO
    for key, value in metadata.items():
        text = _clipped(value, 500)
        remaining -= len(key.encode()) + len(text.encode()) + 8
        if text and remaining >= 0:
            result[key] = text
    return result


def _clipped(text: str, limit: int) -> str:
    """Truncate text to at most `limit` bytes after percent-encoding, where each non-ASCII byte takes three bytes."""
    if text.isascii():
        return text[:limit]
    size = 0
    for index, character in enumerate(text):
        size += 1 if character.isascii() else 3 * len(character.encode("utf-8", "replace"))
        if size > limit:
            return text[:index]
    return text


def _bad_request(error: errors.InvalidRequest) -> error_details_pb2.BadRequest:
    """Return the violations that fit into the size limit."""
    bad_request = error_details_pb2.BadRequest()
    for index, violation in enumerate(error.violations):
        violation_pb = bad_request.field_violations.add(
            field=_clipped(violation.field, 200), description=_clipped(violation.description, 500)
        )
        if bad_request.ByteSize() > MAX_DETAILS - _MAX_INFO - 512:
            violation_pb.field = "…"
            more = len(error.violations) - index
            violation_pb.description = f"{more} more fields are invalid; correct the listed fields first"
            break
    return bad_request
