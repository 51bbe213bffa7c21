// Connect a user's Zoom account, schedule a meeting, and delete it, with grpc-js instead of Connect's library.

import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { promisify } from "node:util";
import {
  type CallOptions,
  type Client,
  credentials,
  InterceptingCall,
  type Interceptor,
  Metadata,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import { ErrorInfo } from "./gen-grpc-js/google/rpc/error_details.js";
import { Status } from "./gen-grpc-js/google/rpc/status.js";
import {
  AuthServiceClient,
  BeginAuthorizationRequest,
  WatchConnectionsRequest,
  WatchConnectionsResponse_Type as EventType,
  watchConnectionsResponse_TypeToJSON as eventName,
} from "./gen-grpc-js/zoomgate/v1/auth_service.js";
import { Connection_State } from "./gen-grpc-js/zoomgate/v1/connection.js";
import {
  CreateMeetingRequest,
  DeleteMeetingRequest,
  GetMeetingRequest,
  MeetingsServiceClient,
} from "./gen-grpc-js/zoomgate/v1/meetings_service.js";

/** Return the options of a client that retries calls, detects lost connections, and sends the caller's key. */
function clientOptions(key: string) {
  return {
    "grpc.service_config": readFileSync("../../proto/zoomgate/v1/service_config.json", "utf8"),
    "grpc.keepalive_time_ms": 30_000,
    interceptors: [authenticate(key)],
  };
}

function authenticate(key: string): Interceptor {
  return (options, nextCall) =>
    new InterceptingCall(nextCall(options), {
      start(metadata, listener, next) {
        if (key) metadata.set("authorization", `Bearer ${key}`);
        next(metadata, listener);
      },
    });
}

type UnaryMethod<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: CallOptions,
  callback: (error: ServiceError | null, response: Response) => void,
) => unknown;

/** Call a method with a deadline. */
function call<Request, Response>(client: Client, method: UnaryMethod<Request, Response>, request: Request) {
  return promisify(method).call(client, request, new Metadata(), { deadline: Date.now() + 30_000 });
}

/** Return the reason of an error, or undefined if the error is not from Zoomgate. */
function reason(error: unknown): string | undefined {
  const [trailer] = (error as ServiceError).metadata?.get("grpc-status-details-bin") ?? [];
  if (!trailer) return undefined;
  return Status.decode(trailer as Buffer)
    .details.filter(({ typeUrl }) => typeUrl === "type.googleapis.com/google.rpc.ErrorInfo")
    .map(({ value }) => ErrorInfo.decode(value))
    .find(({ domain }) => domain === "zoomgate")?.reason;
}

/** Return whether the service is unavailable, has too many watches, or a proxy reset the stream. */
function isResumable(error: unknown): boolean {
  const { code } = error as ServiceError;
  const isReset = code === status.INTERNAL || code === status.UNKNOWN;
  return [status.UNAVAILABLE, status.CANCELLED, status.RESOURCE_EXHAUSTED].includes(code) || (isReset && !reason(error));
}

/**
 * Yield the events of users. Resume an interrupted stream after the last event, and end the stream with the loop.
 * If the service cannot be reached before the first event, throw the error.
 */
async function* watch(auth: AuthServiceClient, userEmails: string[], options: CallOptions) {
  let resumeToken = "";
  for (;;) {
    const request = WatchConnectionsRequest.fromPartial({ userEmails, resumeToken });
    const stream = auth.watchConnections(request, options);
    try {
      for await (const event of stream) {
        yield event;
        resumeToken = event.resumeToken;
      }
      throw Object.assign(new Error("the stream ended"), { code: status.UNAVAILABLE });
    } catch (error) {
      if (reason(error) === "RESUME_TOKEN_EXPIRED") {
        resumeToken = ""; // the stream starts again with a snapshot
      } else if (resumeToken && isResumable(error)) {
        await setTimeout(1_000);
      } else {
        throw error;
      }
    } finally {
      stream.cancel();
    }
  }
}

/** Print the URL with which the user consents, and return when the user is connected. */
async function connect(auth: AuthServiceClient, userEmail: string): Promise<void> {
  let authorized = false;
  const deadline = Date.now() + 600_000; // the URL is valid for 10 minutes
  for await (const event of watch(auth, [userEmail], { deadline })) {
    console.log(eventName(event.type));
    if (event.connection?.state === Connection_State.STATE_ACTIVE) return;
    if (event.type === EventType.TYPE_SYNCED && !authorized) {
      const request = BeginAuthorizationRequest.fromPartial({ userEmail });
      const { authorizationUrl } = await call(auth, auth.beginAuthorization, request);
      console.log(`${userEmail} must open this URL: ${authorizationUrl}`);
      authorized = true;
    }
  }
}

async function main(target: string, key: string, userEmail: string): Promise<void> {
  const local = /^(localhost|127\.0\.0\.1|\[::1\]):/.test(target);
  const channelCredentials = local ? credentials.createInsecure() : credentials.createSsl();
  const auth = new AuthServiceClient(target, channelCredentials, clientOptions(key));
  await connect(auth, userEmail);

  const meetings = new MeetingsServiceClient(target, channelCredentials, clientOptions(key));
  const meetingDetails = { topic: "Planning", durationMinutes: 45 };
  const { meeting } = await call(
    meetings,
    meetings.createMeeting,
    CreateMeetingRequest.fromPartial({ userEmail, meetingDetails }),
  );
  const meetingId = meeting!.id; // a bigint
  console.log(`created meeting ${meetingId}: ${meeting!.joinUrl}`);

  await call(meetings, meetings.deleteMeeting, DeleteMeetingRequest.fromPartial({ userEmail, meetingId }));
  try {
    await call(meetings, meetings.getMeeting, GetMeetingRequest.fromPartial({ userEmail, meetingId }));
    throw new Error("the meeting still exists");
  } catch (error) {
    if (reason(error) !== "MEETING_NOT_FOUND") throw error;
  }
  console.log("deleted the meeting");
}

const [userEmail] = process.argv.slice(2);
if (!userEmail) {
  console.error("usage: npm run grpc-js EMAIL");
  process.exit(1);
}
try {
  await main(process.env.ZOOMGATE_SERVER ?? "127.0.0.1:50051", process.env.ZOOMGATE_KEY ?? "", userEmail);
} catch (error) {
  const name = reason(error);
  console.error(name ? `${name}: ${(error as ServiceError).details}` : String(error));
  process.exit(1);
}
