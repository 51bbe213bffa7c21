import com.google.protobuf.InvalidProtocolBufferException;
import dev.zoomgate.v1.AuthServiceGrpc.AuthServiceBlockingStub;
import dev.zoomgate.v1.WatchConnectionsRequest;
import dev.zoomgate.v1.WatchConnectionsResponse;
import io.grpc.Context;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.Iterator;
import java.util.List;
import java.util.Optional;

/** The events of users. If the service cannot be reached before the first event, {@link #next} throws the error. */
final class Watch implements AutoCloseable {
  private final AuthServiceBlockingStub auth;
  private final WatchConnectionsRequest.Builder request;
  private final Context.CancellableContext context = Context.current().withCancellation();
  private Iterator<WatchConnectionsResponse> stream;

  Watch(AuthServiceBlockingStub auth, List<String> users) {
    this.auth = auth;
    request = WatchConnectionsRequest.newBuilder().addAllUserEmails(users);
  }

  /** Waits for the next event. Resumes an interrupted stream after the last event. */
  WatchConnectionsResponse next() throws Exception {
    for (;;) {
      try {
        if (stream == null) {
          stream = context.call(() -> auth.watchConnections(request.build()));
        }
        if (!stream.hasNext()) {
          throw Status.UNAVAILABLE.withDescription("the stream ended").asRuntimeException();
        }
        var event = stream.next();
        request.setResumeToken(event.getResumeToken());
        return event;
      } catch (StatusRuntimeException error) {
        stream = null;
        if (Main.reason(error).equals(Optional.of("RESUME_TOKEN_EXPIRED"))) {
          request.clearResumeToken(); // the stream starts again with a snapshot
        } else if (!request.getResumeToken().isEmpty() && isResumable(error)) {
          Thread.sleep(1_000);
        } else {
          throw error;
        }
      }
    }
  }

  /** Returns whether the service is unavailable, has too many watches, or a proxy reset the stream. */
  private static boolean isResumable(StatusRuntimeException error) throws InvalidProtocolBufferException {
    return switch (error.getStatus().getCode()) {
      case UNAVAILABLE, CANCELLED, RESOURCE_EXHAUSTED -> true;
      case INTERNAL, UNKNOWN -> Main.reason(error).isEmpty();
      default -> false;
    };
  }

  /** Ends the stream. */
  @Override
  public void close() {
    context.close();
  }
}
