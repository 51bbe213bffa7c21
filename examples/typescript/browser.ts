// A transport for web pages, which call the unary RPCs over HTTP with the key of a member.

import type { Interceptor, Transport } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";

function authenticate(key: string): Interceptor {
  return (next) => (request) => {
    request.header.set("authorization", `Bearer ${key}`);
    return next(request);
  };
}

export function dial(baseUrl: string, key: string): Transport {
  return createConnectTransport({ baseUrl, interceptors: [authenticate(key)], defaultTimeoutMs: 30_000 });
}
