"""The timing of all components, in one place so that a test can run the service with shorter times."""

from dataclasses import dataclass

from zoomgate_server.app import reloadable_files, stores
from zoomgate_server.audit import trail
from zoomgate_server.authorization import browser_flow
from zoomgate_server.connections import (
    access_tokens,
    disconnection,
    file_downloads,
    journal_recovery,
    proactive_refresh,
    token_journal,
    zoom_calls,
    zoom_pages,
)
from zoomgate_server.connections.refresh import protocol
from zoomgate_server.encryption import reloading_key_ring
from zoomgate_server.rpc import connect as connect_rpc
from zoomgate_server.rpc.middleware import authentication, pipeline
from zoomgate_server.watch import change_feed, watchers
from zoomgate_server.web import server as web_server
from zoomgate_server.webhooks import receiver
from zoomgate_server.zoom import file_client, oauth


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing of each component, in seconds.

    Attributes:
        drain: Maximum time for token requests, and for storing their results, after all calls have ended. A token request starts only if
            it is certain to end within this time.
        responses: Maximum time to send the responses of the calls that the shutdown ends.
    """

    drain: float = 40.0
    responses: float = 5.0
    audit: trail.Timing = trail.Timing()
    browsers: browser_flow.Timing = browser_flow.Timing()
    calls: authentication.Timing = authentication.Timing()
    connect: connect_rpc.Timing = connect_rpc.Timing()
    disconnections: disconnection.Timing = disconnection.Timing()
    proactive_refreshes: proactive_refresh.Timing = proactive_refresh.Timing()
    journal: token_journal.Timing = token_journal.Timing()
    recovery: journal_recovery.Timing = journal_recovery.Timing()
    refreshes: protocol.Timing = protocol.Timing()
    downloads: file_downloads.Timing = file_downloads.Timing()
    feed: change_feed.Timing = change_feed.Timing()
    file_requests: file_client.Timing = file_client.Timing()
    files: reloadable_files.Timing = reloadable_files.Timing()
    key_ring: reloading_key_ring.Timing = reloading_key_ring.Timing()
    pages: zoom_pages.Timing = zoom_pages.Timing()
    store: stores.Timing = stores.Timing()
    streams: pipeline.Timing = pipeline.Timing()
    token_requests: oauth.Timing = oauth.Timing()
    tokens: access_tokens.Timing = access_tokens.Timing()
    watches: watchers.Timing = watchers.Timing()
    web: web_server.Timing = web_server.Timing()
    webhooks: receiver.Timing = receiver.Timing()
    zoom_requests: zoom_calls.Timing = zoom_calls.Timing()
