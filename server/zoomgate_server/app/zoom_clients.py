"""Creation of the Zoom clients, for the service and for commands that call Zoom themselves."""

from contextlib import AsyncExitStack

from zoomgate_server import build_info
from zoomgate_server.clock import Clock
from zoomgate_server.settings import Settings
from zoomgate_server.zoom.client import ZoomClient
from zoomgate_server.zoom.file_client import FileClient
from zoomgate_server.zoom.file_client import Timing as FileTiming
from zoomgate_server.zoom.file_urls import FileHosts
from zoomgate_server.zoom.oauth import OAuthClient, Timing
from zoomgate_server.zoom.traced import TracedFileClient, TracedOAuthClient, TracedZoomClient


def open_clients(
    settings: Settings, clock: Clock, stack: AsyncExitStack, timing: Timing = Timing()
) -> tuple[ZoomClient, OAuthClient]:
    """Open the clients of Zoom's REST API and of its OAuth endpoints, in the running event loop; the exit stack closes them."""
    user_agent = _user_agent()
    is_traced = settings.opentelemetry.traces
    zoom = (TracedZoomClient if is_traced else ZoomClient)(
        api_url=settings.zoom_api_url,
        user_agent=user_agent,
        max_response_bytes=settings.max_response_bytes,
    )
    stack.push_async_callback(zoom.close)
    oauth = (TracedOAuthClient if is_traced else OAuthClient)(
        oauth_url=settings.zoom_oauth_url,
        client_id=settings.client_id,
        client_secrets=[secret.reveal() for secret in settings.client_secret],
        redirect_uri=settings.redirect_uri,
        user_agent=user_agent,
        wall=clock.wall,
        timing=timing,
    )
    stack.push_async_callback(oauth.close)
    return zoom, oauth


def open_file_client(
    settings: Settings, hosts: FileHosts, stack: AsyncExitStack, timing: FileTiming
) -> FileClient:
    """Open the client that downloads files from Zoom, in the running event loop; the exit stack closes it."""
    files = (TracedFileClient if settings.opentelemetry.traces else FileClient)(
        api_url=settings.zoom_api_url,
        hosts=hosts,
        user_agent=_user_agent(),
        max_response_bytes=settings.max_response_bytes,
        timing=timing,
    )
    stack.push_async_callback(files.close)
    return files


def _user_agent() -> str:
    return f"zoomgate/{build_info.version()}"
