import com.google.gson.Gson;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import dev.zoomgate.v1.AuthServiceGrpc;
import dev.zoomgate.v1.AuthServiceGrpc.AuthServiceBlockingStub;
import dev.zoomgate.v1.BeginAuthorizationRequest;
import dev.zoomgate.v1.Connection;
import dev.zoomgate.v1.CreateMeetingRequest;
import dev.zoomgate.v1.DeleteMeetingRequest;
import dev.zoomgate.v1.GetMeetingRequest;
import dev.zoomgate.v1.MeetingDetails;
import dev.zoomgate.v1.MeetingsServiceGrpc;
import dev.zoomgate.v1.WatchConnectionsResponse;
import io.grpc.Channel;
import io.grpc.ClientInterceptors;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import java.io.IOException;
import java.io.InputStreamReader;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.TimeUnit;

/** Connects a user's Zoom account, schedules a meeting, and deletes it. */
public final class Main {
  /** Returns a channel that retries calls and detects lost connections. */
  static ManagedChannel dial(String target) throws IOException {
    boolean local = target.matches("(localhost|127\\.0\\.0\\.1|\\[::1]):.*");
    try (var config = Main.class.getResourceAsStream("/service_config.json")) {
      Map<String, ?> serviceConfig = new Gson().fromJson(new InputStreamReader(config), Map.class);
      return Grpc.newChannelBuilder(target, local ? InsecureChannelCredentials.create() : TlsChannelCredentials.create())
          .defaultServiceConfig(serviceConfig)
          .keepAliveTime(30, TimeUnit.SECONDS)
          .build();
    }
  }

  /** Returns a channel that sends the caller's key with each call. */
  static Channel authenticate(Channel channel, String key) {
    var metadata = new Metadata();
    if (!key.isEmpty()) {
      metadata.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + key);
    }
    return ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(metadata));
  }

  /** Returns the reason of an error, if the error is from Zoomgate. */
  static Optional<String> reason(StatusRuntimeException error) throws InvalidProtocolBufferException {
    for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
      if (detail.is(ErrorInfo.class) && detail.unpack(ErrorInfo.class).getDomain().equals("zoomgate")) {
        return Optional.of(detail.unpack(ErrorInfo.class).getReason());
      }
    }
    return Optional.empty();
  }

  /** Prints the URL with which the user consents, and returns when the user is connected. */
  static void connect(AuthServiceBlockingStub auth, String user) throws Exception {
    boolean authorized = false;
    try (var watch = new Watch(auth.withDeadlineAfter(10, TimeUnit.MINUTES), List.of(user))) { // the URL is valid for 10 minutes
      for (;;) {
        var event = watch.next();
        System.out.println(event.getType());
        if (event.getConnection().getState() == Connection.State.STATE_ACTIVE) {
          return;
        }
        if (event.getType() == WatchConnectionsResponse.Type.TYPE_SYNCED && !authorized) {
          var begun = auth.beginAuthorization(BeginAuthorizationRequest.newBuilder().setUserEmail(user).build());
          System.out.println(user + " must open this URL: " + begun.getAuthorizationUrl());
          authorized = true;
        }
      }
    }
  }

  static void run(Channel channel, String user) throws Exception {
    connect(AuthServiceGrpc.newBlockingStub(channel), user);

    var meetings = MeetingsServiceGrpc.newBlockingStub(channel);
    var details = MeetingDetails.newBuilder().setTopic("Planning").setDurationMinutes(45);
    var meeting = meetings
        .createMeeting(CreateMeetingRequest.newBuilder().setUserEmail(user).setMeetingDetails(details).build())
        .getMeeting();
    System.out.println("created meeting " + meeting.getId() + ": " + meeting.getJoinUrl());

    meetings.deleteMeeting(DeleteMeetingRequest.newBuilder().setUserEmail(user).setMeetingId(meeting.getId()).build());
    try {
      meetings.getMeeting(GetMeetingRequest.newBuilder().setUserEmail(user).setMeetingId(meeting.getId()).build());
      throw new IllegalStateException("the meeting still exists");
    } catch (StatusRuntimeException error) {
      if (!reason(error).equals(Optional.of("MEETING_NOT_FOUND"))) {
        throw error;
      }
    }
    System.out.println("deleted the meeting");
  }

  public static void main(String[] arguments) throws Exception {
    if (arguments.length != 1) {
      throw new IllegalArgumentException("usage: mvn compile exec:java -Dexec.args=EMAIL");
    }
    var channel = dial(System.getenv().getOrDefault("ZOOMGATE_SERVER", "127.0.0.1:50051"));
    try {
      run(authenticate(channel, System.getenv().getOrDefault("ZOOMGATE_KEY", "")), arguments[0]);
    } catch (StatusRuntimeException error) {
      var message = error.getCause() == null ? error.getMessage() : error.getMessage() + ": " + error.getCause().getMessage();
      System.err.println(reason(error).map(name -> name + ": " + error.getStatus().getDescription()).orElse(message));
      System.exit(1);
    } finally {
      channel.shutdownNow();
    }
  }
}
