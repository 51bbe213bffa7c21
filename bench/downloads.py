"""Benchmark of the processor time of a download, compared with the baseline, which passes the chunks of a response on."""

from bench import upstream
from bench.load import Target, open_channel
from bench.process_stats import processor_seconds
from zoomgate.v1 import proxy_service_pb2, proxy_service_pb2_grpc

MIB = upstream.FILE_BYTES // 2**20
_REQUEST = proxy_service_pb2.DownloadRequest(user_email=upstream.USER, url="/file")


def microseconds_per_mib(target: Target) -> float:
    """Download the file from a server; return the processor time of the server per MiB."""
    metadata = (("authorization", f"Bearer {target.key}"),)
    before, received = processor_seconds(target.process), 0
    with open_channel(target) as channel:
        for response in proxy_service_pb2_grpc.ProxyServiceStub(channel).Download(
            _REQUEST, metadata=metadata
        ):
            received += len(response.chunk)
    assert received == upstream.FILE_BYTES
    return (processor_seconds(target.process) - before) / MIB * 1e6
