import com.google.gson.Gson;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import dev.zoomgate.v1.AuthServiceGrpc;
import dev.zoomgate.v1.GetConnectionRequest;
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
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.TimeUnit;

/** Prints the state of a user's connection, or the reason why there is none. */
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

  public static void main(String[] arguments) throws Exception {
    if (arguments.length != 1) {
      throw new IllegalArgumentException("usage: mvn compile exec:java -Dexec.args=EMAIL");
    }
    var channel = dial(System.getenv().getOrDefault("ZOOMGATE_SERVER", "127.0.0.1:50051"));
    var key = System.getenv().getOrDefault("ZOOMGATE_KEY", "");
    var auth = AuthServiceGrpc.newBlockingStub(authenticate(channel, key));
    var request = GetConnectionRequest.newBuilder().setUserEmail(arguments[0]).build();
    try {
      System.out.println(auth.getConnection(request).getConnection().getState());
    } catch (StatusRuntimeException error) {
      System.out.println(reason(error).orElse(error.getMessage()));
    } finally {
      channel.shutdownNow();
    }
  }
}
