// Connect a user's Zoom account, schedule a meeting, and delete it.

import { setTimeout } from "node:timers/promises";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import { type Client, Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import { ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { AuthService, WatchConnectionsResponse_Type as EventType } from "./gen/zoomgate/v1/auth_service_pb.js";
import { Connection_State } from "./gen/zoomgate/v1/connection_pb.js";
import { MeetingsService } from "./gen/zoomgate/v1/meetings_service_pb.js";

type Auth = Client<typeof AuthService>;

/** The codes of an unavailable service, a stopping server and a connection that was lost or reset. */
const INTERRUPTED = new Set([Code.Unavailable, Code.Canceled, Code.Aborted]);

/** Return a transport that retries calls, detects lost connections, and sends the caller's key; and its connection, to be closed. */
function dial(target: string, key: string) {
  const local = /^(localhost|127\.0\.0\.1|\[::1\]):/.test(target);
  const baseUrl = `${local ? "http" : "https"}://${target}`;
  const sessionManager = new Http2SessionManager(baseUrl, { pingIntervalMs: 30_000, pingTimeoutMs: 10_000 });
  const transport = createGrpcTransport({
    baseUrl,
    sessionManager,
    interceptors: [retry, authenticate(key)],
    defaultTimeoutMs: 30_000,
  });
  return { transport, close: () => sessionManager.abort() };
}

function authenticate(key: string): Interceptor {
  return (next) => (request) => {
    if (key) request.header.set("authorization", `Bearer ${key}`);
    return next(request);
  };
}

/** Retry interrupted unary calls that the contract declares safe to retry. */
const retry: Interceptor = (next) => async (request) => {
  const safe = request.method.idempotency !== MethodOptions_IdempotencyLevel.IDEMPOTENCY_UNKNOWN;
  for (let attempt = 1; ; attempt++) {
    try {
      return await next(request);
    } catch (error) {
      const { code, metadata } = ConnectError.from(error);
      const delay = Number(metadata.get("grpc-retry-pushback-ms") ?? 100 * 2 ** attempt); // negative: do not retry
      if (request.stream || !safe || !INTERRUPTED.has(code) || attempt === 4 || !(delay >= 0)) throw error;
      await setTimeout(delay, undefined, { signal: request.signal });
    }
  }
};

/** Return the reason of an error, or undefined if the error is not from Zoomgate. */
function reason(error: unknown): string | undefined {
  const details = ConnectError.from(error).findDetails(ErrorInfoSchema);
  return details.find((info) => info.domain === "zoomgate")?.reason;
}

/** Return whether the service is unavailable, has too many watches, or a proxy reset the stream. */
function isResumable(error: unknown): boolean {
  const { code } = ConnectError.from(error);
  const isReset = code === Code.Internal || code === Code.Unknown;
  return INTERRUPTED.has(code) || code === Code.ResourceExhausted || (isReset && !reason(error));
}

/**
 * Yield the events of users. Resume an interrupted stream after the last event, and end the stream with the loop.
 * If the service cannot be reached before the first event, throw the error.
 */
async function* watch(auth: Auth, userEmails: string[], signal: AbortSignal) {
  let resumeToken = "";
  for (;;) {
    try {
      for await (const event of auth.watchConnections({ userEmails, resumeToken }, { signal, timeoutMs: 0 })) {
        yield event;
        resumeToken = event.resumeToken;
      }
      throw new ConnectError("the stream ended", Code.Unavailable);
    } catch (error) {
      signal.throwIfAborted();
      if (reason(error) === "RESUME_TOKEN_EXPIRED") {
        resumeToken = ""; // the stream starts again with a snapshot
      } else if (resumeToken && isResumable(error)) {
        await setTimeout(1_000, undefined, { signal });
      } else {
        throw error;
      }
    }
  }
}

/** Print the URL with which the user consents, and return when the user is connected. */
async function connect(auth: Auth, userEmail: string): Promise<void> {
  let authorized = false;
  const signal = AbortSignal.timeout(600_000); // the URL is valid for 10 minutes
  for await (const event of watch(auth, [userEmail], signal)) {
    console.log(EventType[event.type]);
    if (event.connection?.state === Connection_State.ACTIVE) return;
    if (event.type === EventType.SYNCED && !authorized) {
      const { authorizationUrl } = await auth.beginAuthorization({ userEmail });
      console.log(`${userEmail} must open this URL: ${authorizationUrl}`);
      authorized = true;
    }
  }
}

async function main(target: string, key: string, userEmail: string): Promise<void> {
  const { transport, close } = dial(target, key);
  await connect(createClient(AuthService, transport), userEmail);

  const meetings = createClient(MeetingsService, transport);
  const { meeting } = await meetings.createMeeting({
    userEmail,
    meetingDetails: { topic: "Planning", durationMinutes: 45 },
  });
  const meetingId = meeting!.id; // a bigint
  console.log(`created meeting ${meetingId}: ${meeting!.joinUrl}`);

  await meetings.deleteMeeting({ userEmail, meetingId });
  try {
    await meetings.getMeeting({ userEmail, meetingId });
    throw new Error("the meeting still exists");
  } catch (error) {
    if (reason(error) !== "MEETING_NOT_FOUND") throw error;
  }
  console.log("deleted the meeting");
  close();
}

const [userEmail] = process.argv.slice(2);
if (!userEmail) {
  console.error("usage: npm start EMAIL");
  process.exit(1);
}
try {
  await main(process.env.ZOOMGATE_SERVER ?? "127.0.0.1:50051", process.env.ZOOMGATE_KEY ?? "", userEmail);
} catch (error) {
  const name = reason(error);
  console.error(name ? `${name}: ${ConnectError.from(error).rawMessage}` : String(error));
  process.exit(1);
}
