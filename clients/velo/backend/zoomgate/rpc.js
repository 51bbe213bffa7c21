import { getPackageConfig } from 'wix-configs-backend';
import { fetch } from 'wix-fetch';
import { getSecret } from 'wix-secrets-backend';

/** The name of the caller's key in Wix's Secrets Manager. */
const KEY_SECRET = 'zoomgate-caller-key';

/**
 * Wix stops functions that pages call after 14 seconds (https://support.wix.com/en/article/velo-about-backend-limitations). Zoomgate ends a
 * call after the first time; if no response arrives, the call ends here after the second one.
 */
const TIMEOUT_MS = 12_000;
const RESPONSE_TIMEOUT_MS = 12_500;

/** The RPCs of these modules that can be repeated safely. */
const REPEATABLE = [
  'AuthService/BeginAuthorization',
  'AuthService/CheckToken',
  'AuthService/GetToken',
  'AuthService/RefreshToken',
  'ProxyService/Get',
];

const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

/** An error of Zoomgate. The message starts with the reason, because pages receive only the message. */
export class ZoomgateError extends Error {
  name = 'ZoomgateError';

  /** @param {{code: string, message: string, details?: {type: string, debug?: object}[]}} error the error in the Connect protocol's form */
  constructor({ code, message, details }) {
    const items = Array.isArray(details) ? details.filter(isObject) : [];
    const detail = (type) => items.find((item) => item.type === `google.rpc.${type}`)?.debug;
    const { reason, metadata = {} } = detail('ErrorInfo') ?? {};
    super(reason ? `${reason}: ${message}` : message);
    /** The status code, such as `failed_precondition`. */
    this.code = code;
    /** The reason, such as `ZOOM_NOT_CONNECTED`; undefined if the error is not from Zoomgate but from gRPC or a proxy. */
    this.reason = reason;
    /** @type {Record<string, string>} */
    this.metadata = metadata;
    /** The invalid fields of the request. */
    this.fieldViolations = detail('BadRequest')?.fieldViolations ?? [];
    /** The time after which to retry, such as `1.5s`, if a retry can succeed. */
    this.retryDelay = detail('RetryInfo')?.retryDelay;
  }

  static of(code, reason, message) {
    return new ZoomgateError({ code, message, details: [{ type: 'google.rpc.ErrorInfo', debug: { reason } }] });
  }
}

/**
 * Call an RPC with the Connect protocol (https://connectrpc.com/docs/protocol/), and return the response message in its JSON form.
 *
 * @param {string} method such as `AuthService/GetToken`
 * @param {object} request the request message in its JSON form
 * @param {string} [memberEmail] the member to whom Zoomgate limits the call; by default, the call is not limited to a member
 * @returns {Promise<any>}
 * @throws {ZoomgateError} the response is an error, or there is none in time
 * @throws {Error} Wix's error if Zoomgate cannot be reached or the secret is missing; an error if the key or `zoomgateUrl` is invalid
 */
export async function call(method, request, memberEmail) {
  const [config, key] = await Promise.all([getPackageConfig('zoom'), getSecret(KEY_SECRET)]);
  if (!/^https?:\/\/\S+$/.test(config?.zoomgateUrl ?? '')) {
    throw new Error('zoomgateUrl is missing or not a URL; set it in the object zoom of config.json');
  }
  // the error of `fetch` for an invalid header contains the header, and visitors can read it
  if (!/^[!-~]+$/.test(key.trim())) throw new Error(`The secret ${KEY_SECRET} is invalid; store only the key`);
  const zoomgateUrl = config.zoomgateUrl.replace(/\/+$/, '');
  const headers = {
    Authorization: `Bearer ${key.trim()}`,
    'Content-Type': 'application/json',
    'Connect-Protocol-Version': '1',
    'Connect-Timeout-Ms': String(TIMEOUT_MS),
  };
  if (memberEmail !== undefined) headers['Zoomgate-Member-Email'] = memberEmail;
  const body = JSON.stringify(request);
  const [response, message] = await withTimeout(method, async () => {
    const response = await fetch(`${zoomgateUrl}/zoomgate.v1.${method}`, { method: 'POST', headers, body });
    return [response, await response.json().catch(() => undefined)];
  });
  if (response.ok && isObject(message)) return message;
  if (!response.ok && typeof message?.code === 'string' && typeof message.message === 'string') {
    throw new ZoomgateError(message);
  }
  // an intermediary has responded, for example with a page; visitors can read the message, so it does not contain the URL
  const text =
    `zoomgateUrl responded with HTTP status ${response.status}, but not as Zoomgate does; check zoomgateUrl,` +
    ' whether ZOOMGATE_CONNECT_RPC is on, and whether the proxy forwards the paths that start with /zoomgate.v1.';
  throw new ZoomgateError({ code: 'unknown', message: text });
}

/** Return the result of a call, or fail if it does not end in time. */
async function withTimeout(method, run) {
  let timer;
  const timeout = new Promise((_, reject) => {
    const effect = REPEATABLE.includes(method) ? 'retry later' : 'the call may have taken effect';
    const message = `Zoomgate did not respond in time; ${effect}`;
    timer = setTimeout(
      () => reject(ZoomgateError.of('deadline_exceeded', 'DEADLINE_EXCEEDED', message)),
      RESPONSE_TIMEOUT_MS,
    );
  });
  try {
    return await Promise.race([run(), timeout]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Call Zoom's REST API, and return Zoom's response, including responses such as 404.
 *
 * @param {'Get' | 'Post' | 'Patch' | 'Delete'} method
 * @param {{url: string, userEmail: string, dataToSend?: object}} request
 * @param {string} [memberEmail] see `call`
 * @returns {Promise<Response>}
 * @throws {Error} see `call`
 */
export async function callZoom(method, { url, userEmail, dataToSend }, memberEmail) {
  // the characters that a URL cannot contain are escaped, as by `fetch`; what is escaped already remains unchanged
  const escaped = encodeURI(url ?? '').replaceAll('%25', '%');
  const request = { userEmail, url: escaped, json: dataToSend };
  const { response } = await call(`ProxyService/${method}`, request, memberEmail);
  const { status, headers = [], body } = response;
  return new Response(body ? Buffer.from(body, 'base64') : null, {
    status,
    headers: headers.map(({ name, value }) => [name, value]),
  });
}
