// Tests for the functions of clients/velo, called through the imports of a site that has installed them.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { beforeEach, test } from 'node:test';

import * as backend from '@example/zoomgate-backend';
import * as page from '@example/zoomgate';
import { call } from '../../../clients/velo/backend/zoomgate/rpc.js';
import { site } from './wix/site.mjs';

const MONICA = 'monica@example.com';
const OMAR = 'omar@example.com';
const PAGE = 'https://www.example.com/zoom';
const APP = new URL('../../../clients/velo/', import.meta.url);
const { ZOOM_OAUTH_URL, ZOOM_CLIENT_ID, ZOOM_CLIENT_SECRET } = process.env;

const FUNCTIONS = [
  ['public/init-zoom.js', 'authorizeUser', '{ userEmail, options }'],
  ['public/init-zoom.js', 'initZoom', '{ code } = {}'],
  ['public/init-zoom.js', 'getQueryParams', ''],
  ['backend/zoom-auth.js', 'createToken', '{ code, userEmail }'],
  ['backend/zoom-auth.js', 'refreshToken', '{ refresh_token, userEmail }'],
  ['backend/zoom-auth.js', 'getToken', 'userEmail'],
  ['backend/zoom-auth.js', 'requestToken', '{ refresh_token, userEmail }'],
  ['backend/validator-helper.js', 'isTokenExpired', '{ expiresIn, updatedDate }'],
  ['backend/validator-helper.js', 'isValidUser', 'userEmail'],
  ['backend/zoom-api-wrapper.jsw', 'createTokenWrapper', '{ code }'],
  ['backend/zoom-api-wrapper.jsw', 'createMeeting', '{ userEmail, meetingDetails = {} }'],
  ['backend/zoom-api-wrapper.jsw', 'getMeeting', '{ userEmail, meetingId }'],
  ['backend/zoom-api-wrapper.jsw', 'deleteMeeting', '{ userEmail, meetingId }'],
  ['backend/zoom-api.js', 'getRequest', '{ url, userEmail }'],
  ['backend/zoom-api.js', 'postRequest', '{ url, dataToSend, userEmail }'],
  ['backend/zoom-api.js', 'patchRequest', '{ url, dataToSend, userEmail }'],
  ['backend/zoom-api.js', 'deleteRequest', '{ url, userEmail }'],
];

/** Consent on Zoom's page, and return the URL to which Zoom redirects the browser. */
async function consent(url, user, decision = 'allow') {
  const form = await fetch(url);
  const fields = [...(await form.text()).matchAll(/type="hidden" name="([^"]+)" value="([^"]*)"/g)];
  const body = new URLSearchParams(fields.map(([, name, value]) => [name, value.replaceAll('&amp;', '&')]));
  body.set('user', user);
  body.set('decision', decision);
  const action = new URL(form.url);
  action.search = '';
  const headers = { Cookie: form.headers.getSetCookie().map((cookie) => cookie.split(';')[0]).join('; ') };
  const response = await fetch(action, { method: 'POST', headers, body, redirect: 'manual' });
  return new URL(response.headers.get('location'));
}

/** Consent without `authorizeUser`, and return the code. */
async function newCode(user) {
  const query = new URLSearchParams({
    response_type: 'code',
    client_id: ZOOM_CLIENT_ID,
    redirect_uri: PAGE,
  });
  return (await consent(`${ZOOM_OAUTH_URL}/authorize?${query}`, user)).searchParams.get('code');
}

/** Connect a user to Zoom without Zoomgate, and return the tokens. */
async function newTokens(user) {
  const body = new URLSearchParams({
    grant_type: 'authorization_code',
    code: await newCode(user),
    redirect_uri: PAGE,
  });
  const credentials = Buffer.from(`${ZOOM_CLIENT_ID}:${ZOOM_CLIENT_SECRET}`).toString('base64');
  const headers = { Authorization: `Basic ${credentials}` };
  return (await fetch(`${ZOOM_OAUTH_URL}/token`, { method: 'POST', headers, body })).json();
}

/** Connect a member with the functions of the page. */
async function connect(user, options) {
  site.member = user;
  await page.authorizeUser({ userEmail: user, options });
  site.url = await consent(site.url, user);
  return page.initZoom();
}

/** Let a different server than Zoomgate respond to the calls of the modules. */
async function serveAsZoomgate(context, respond) {
  const server = createServer(respond).listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { zoomgateUrl } = site.config.zoom;
  context.after(() => {
    site.config.zoom.zoomgateUrl = zoomgateUrl;
    server.closeAllConnections();
    server.close();
  });
  site.config.zoom.zoomgateUrl = `http://127.0.0.1:${server.address().port}`;
}

/** Let Zoom respond to the calls of the modules with a status and a body. */
function zoomResponds(context, status, text) {
  const body = Buffer.from(text).toString('base64');
  return serveAsZoomgate(context, (_, response) => response.end(JSON.stringify({ response: { status, body } })));
}

beforeEach(() => {
  Object.assign(site, { member: undefined, url: new URL(PAGE), env: 'browser', requests: [] });
});

for (const [file, name, parameters] of FUNCTIONS) {
  test(`${name} is exported by ${file} with its documented parameters`, async () => {
    const exported = (await import(new URL(file, APP)))[name];
    assert.equal(exported.toString().match(/\w+\((.*)\) \{/)[1], parameters);
    assert.ok(name in (file.startsWith('public') ? page : backend));
  });
}

test('the page module imports no backend module other than the web module', async () => {
  const source = await readFile(new URL('public/init-zoom.js', APP), 'utf8');
  const imported = [...source.matchAll(/^import .* from '(.+)';$/gm)].map(([, module]) => module);
  assert.deepEqual(imported, [
    'wix-location-frontend',
    'wix-members-frontend',
    'wix-window-frontend',
    'backend/zoom-api-wrapper.jsw',
  ]);
});

test('authorizeUser and initZoom connect the member and return the options', async () => {
  const options = { page: 'book', names: ['Monica', 'Ünal'] };
  assert.deepEqual(await connect(MONICA, options), { userEmail: MONICA, options });
  assert.equal((await backend.getRequest({ url: '/users/me', userEmail: MONICA })).status, 200);
});

test('the page of the README connects the member and creates a meeting', async () => {
  const elements = { '#status': { text: '' } };
  let load;
  globalThis.$w = Object.assign((name) => elements[name], { onReady: (run) => (load = run) });
  const { connect_click, meet_click } = await import('page-of-the-readme');
  await connect_click();
  assert.equal(elements['#status'].text, 'Log in first');
  site.member = MONICA;
  elements['#status'].text = '';
  await load();
  assert.equal(elements['#status'].text, '');
  await connect_click();
  site.url = await consent(site.url, MONICA);
  await load();
  assert.equal(elements['#status'].text, `${MONICA} is connected`);
  await meet_click();
  assert.match(elements['#status'].text, /^https:.*zoom.us\/j\//);
  await connect_click();
  site.url = await consent(site.url, MONICA, 'deny');
  await load();
  assert.match(elements['#status'].text, /^AUTHORIZATION_DECLINED: /);
});

test('initZoom removes the code from the URL, so that a reload of the page does nothing', async () => {
  await connect(MONICA);
  assert.equal(site.url.href, PAGE);
  assert.equal(await page.initZoom(), undefined);
});

test('initZoom does nothing while Wix renders the page on its servers', async () => {
  site.member = MONICA;
  await page.authorizeUser({ userEmail: MONICA });
  site.url = await consent(site.url, MONICA);
  site.env = 'backend';
  assert.equal(await page.initZoom({ code: page.getQueryParams().code }), undefined);
  site.env = 'browser';
  const connected = await page.initZoom({ code: page.getQueryParams().code });
  assert.deepEqual(connected, { userEmail: MONICA, options: {} });
});

for (const query of ['?code=x&state=google-1234567', '?state=own', `?state=${'s'.repeat(43)}`, '?code=x', '?error=x']) {
  test(`initZoom ignores the parameters of other integrations: ${query}`, async () => {
    site.member = MONICA;
    site.url = new URL(query, PAGE);
    assert.equal(await page.initZoom(), undefined);
    assert.equal(site.url.href, PAGE + query);
    assert.deepEqual(site.requests, []);
  });
}

test('initZoom connects a member who logs in after the redirect', async () => {
  site.member = MONICA;
  await page.authorizeUser({ userEmail: MONICA });
  site.url = await consent(site.url, MONICA);
  site.member = undefined;
  await assert.rejects(page.initZoom(), { message: 'Member is not logged in' });
  site.member = MONICA;
  assert.equal((await page.initZoom()).userEmail, MONICA);
});

test('initZoom fails if the user declines', async () => {
  site.member = MONICA;
  await page.authorizeUser({ userEmail: MONICA });
  site.url = await consent(site.url, MONICA, 'deny');
  await assert.rejects(page.initZoom(), { message: /^AUTHORIZATION_DECLINED: / });
});

test('initZoom fails if a different member than the one who started the authorization is logged in', async () => {
  site.member = MONICA;
  await page.authorizeUser({ userEmail: MONICA });
  site.url = await consent(site.url, MONICA);
  site.member = OMAR;
  await assert.rejects(page.initZoom(), { message: /^INVALID_STATE: / });
});

test('initZoom fails if a different Zoom user consents', async () => {
  site.member = MONICA;
  await page.authorizeUser({ userEmail: MONICA });
  site.url = await consent(site.url, OMAR);
  await assert.rejects(page.initZoom(), { message: /^IDENTITY_MISMATCH: / });
});

test('a member whom the key of the site has connected to a Zoom account with a different address can consent again', async () => {
  const office = 'basil@office.example';
  const zoomEmail = 'basil@example.com';
  const started = await call('AuthService/BeginAuthorization', { userEmail: office, zoomEmail });
  site.url = await consent(started.authorizationUrl, zoomEmail);
  const callbackUrl = site.url.href;
  await assert.rejects(page.initZoom(), { message: 'Member is not logged in' });
  assert.equal(site.url.href, callbackUrl);
  await call('AuthService/CompleteAuthorization', { callbackUrl });
  assert.equal((await backend.getRequest({ url: '/users/me', userEmail: office })).status, 200);
  site.member = office;
  await page.authorizeUser({ userEmail: office });
  site.url = await consent(site.url, zoomEmail);
  assert.equal((await page.initZoom()).userEmail, office);
});

test('createMeeting, getMeeting and deleteMeeting use the names and values of Zoom’s API', async () => {
  await connect(MONICA);
  const meetingDetails = { topic: 'First', type: 2, duration: 30, settings: { waiting_room: true } };
  const meeting = await backend.createMeeting({ userEmail: MONICA, meetingDetails });
  assert.equal(typeof meeting.id, 'number');
  assert.match(meeting.join_url, /^https:/);
  assert.deepEqual([meeting.topic, meeting.type, meeting.duration], ['First', 2, 30]);
  assert.equal(meeting.settings.waiting_room, true);
  const meetingId = String(meeting.id);
  assert.equal((await backend.getMeeting({ userEmail: MONICA.toUpperCase(), meetingId })).topic, 'First');
  assert.equal(await backend.deleteMeeting({ userEmail: MONICA, meetingId }), '204');
  await assert.rejects(backend.getMeeting({ userEmail: MONICA, meetingId }), { message: /404.*3001/ });
});

test('the URL of Zoomgate may end with a slash', async (context) => {
  const { zoomgateUrl } = site.config.zoom;
  context.after(() => (site.config.zoom.zoomgateUrl = zoomgateUrl));
  site.config.zoom.zoomgateUrl = `${zoomgateUrl}/`;
  assert.equal((await connect(MONICA)).userEmail, MONICA);
});

for (const [status, body] of [
  [200, '<html>Welcome</html>'],
  [200, '"ok"'],
  [200, 'null'],
  [403, '{"error": "forbidden"}'],
  [403, 'null'],
  [502, '[]'],
]) {
  test(`a response that is not Zoomgate’s is reported with its status: ${status} ${body}`, async (context) => {
    await serveAsZoomgate(context, (_, response) => response.writeHead(status).end(body));
    await assert.rejects(backend.getToken(MONICA), { code: 'unknown', message: new RegExp(`HTTP status ${status}`) });
  });
}

test('createMeeting accepts empty details', async () => {
  await connect(MONICA);
  const meeting = await backend.createMeeting({ userEmail: MONICA, meetingDetails: {} });
  assert.match(meeting.join_url, /^https:/);
});

for (const [status, text, isRefusal] of [
  [500, '{"code":1,"message":"Internal error"}', false],
  [502, '<html>Bad Gateway</html>', false],
  [408, '{"message":"Request timeout"}', false],
  [403, '<html>Forbidden</html>', false],
  [302, '', false],
  [201, '{"id":81234567', false],
  [201, '', false],
  [400, '{"code":300,"message":"Invalid field."}', true],
]) {
  test(`a write is reported as failed only if Zoom rejected it: ${status} ${text}`, async (context) => {
    site.member = MONICA;
    await zoomResponds(context, status, text);
    const message = new RegExp(`${isRefusal ? '^Zoom responded' : '^ZOOM_OUTCOME_UNKNOWN: '}.*HTTP status ${status}`);
    await assert.rejects(backend.createMeeting({ userEmail: MONICA }), { message });
    await assert.rejects(backend.deleteMeeting({ userEmail: MONICA, meetingId: '1' }), { message });
  });
}

for (const [status, text, reason] of [
  [500, '{"code":1,"message":"Internal error"}', 'ZOOM_UNAVAILABLE'],
  [302, '', 'ZOOM_BAD_RESPONSE'],
  [200, '{"id":81234567', 'ZOOM_BAD_RESPONSE'],
]) {
  test(`a read without a usable response fails with ${reason}: ${status} ${text}`, async (context) => {
    site.member = MONICA;
    await zoomResponds(context, status, text);
    const message = new RegExp(`^${reason}: .*HTTP status ${status}`);
    await assert.rejects(backend.getMeeting({ userEmail: MONICA, meetingId: '1' }), { message });
  });
}

for (const [name, run, outcome] of [
  ['createMeeting', () => backend.createMeeting({ userEmail: MONICA }), 'the call may have taken effect'],
  ['getMeeting', () => backend.getMeeting({ userEmail: MONICA, meetingId: '1' }), 'retry later'],
]) {
  test(`${name} ends before Wix stops it if Zoomgate does not respond`, async (context) => {
    site.member = MONICA;
    let called;
    const request = new Promise((resolve) => (called = resolve));
    await serveAsZoomgate(context, called);
    context.mock.timers.enable({ apis: ['setTimeout'] });
    const message = `DEADLINE_EXCEEDED: Zoomgate did not respond in time; ${outcome}`;
    const rejection = assert.rejects(run(), { message });
    await request;
    context.mock.timers.tick(13_500);
    await rejection;
  });
}

for (const meetingId of [undefined, null, '']) {
  test(`a missing meeting ID is rejected without a request: ${meetingId}`, async () => {
    site.member = MONICA;
    for (const run of [backend.getMeeting, backend.deleteMeeting]) {
      await assert.rejects(run({ userEmail: MONICA, meetingId }), { message: /^meetingId is missing/ });
    }
    assert.deepEqual(site.requests, []);
  });
}

test('a meeting ID cannot lead to a different path of Zoom’s API', async () => {
  await connect(MONICA);
  const { id } = await backend.createMeeting({ userEmail: MONICA });
  for (const meetingId of ['../users/me', `${id}/../${id}`, `${id}?a=b`, `${id}/`, '..', '']) {
    await assert.rejects(backend.getMeeting({ userEmail: MONICA, meetingId }));
  }
});

const WEB_FUNCTIONS = [
  ['authorizeUser', (userEmail) => page.authorizeUser({ userEmail })],
  ['createMeeting', (userEmail) => backend.createMeeting({ userEmail, meetingDetails: {} })],
  ['getMeeting', (userEmail) => backend.getMeeting({ userEmail, meetingId: '1' })],
  ['deleteMeeting', (userEmail) => backend.deleteMeeting({ userEmail, meetingId: '1' })],
];

for (const [name, run] of WEB_FUNCTIONS) {
  test(`${name} rejects visitors and other members without a request`, async () => {
    await assert.rejects(run(MONICA), { message: 'Member is not logged in' });
    site.member = OMAR;
    await assert.rejects(run(MONICA), { message: 'Email addresses do not match' });
    assert.deepEqual(site.requests, []);
  });
}

for (const [name, run] of [
  ['createTokenWrapper', () => backend.createTokenWrapper({ code: 'x' })],
  ['initZoom', () => page.initZoom({ code: 'x' })],
]) {
  test(`${name} rejects visitors without a request`, async () => {
    site.url = new URL(`?state=${'s'.repeat(43)}`, PAGE);
    await assert.rejects(run(), { message: 'Member is not logged in' });
    assert.deepEqual(site.requests, []);
  });
}

test('every call of a page names the member to whom Zoomgate limits it', async () => {
  await connect(MONICA);
  const { id } = await backend.createMeeting({ userEmail: MONICA });
  await backend.getMeeting({ userEmail: MONICA, meetingId: `${id}` });
  await backend.deleteMeeting({ userEmail: MONICA, meetingId: `${id}` });
  await backend.createTokenWrapper({ code: await newCode(MONICA) });
  const members = site.requests.map((headers) => headers['Zoomgate-Member-Email']);
  assert.deepEqual(members, Array(6).fill(MONICA));
});

test('isValidUser compares the address with the member’s, in any case', async () => {
  assert.deepEqual(await backend.isValidUser(MONICA), { valid: false, reason: 'Member is not logged in' });
  site.member = 'Monica@Example.com';
  assert.deepEqual(await backend.isValidUser(MONICA), { valid: true });
  const mismatch = { valid: false, reason: 'Email addresses do not match' };
  assert.deepEqual(await backend.isValidUser(OMAR), mismatch);
  assert.deepEqual(await backend.isValidUser(undefined), mismatch);
});

test('createToken returns the tokens with Zoom’s names', async () => {
  const token = await backend.createToken({ code: await newCode(MONICA), userEmail: MONICA });
  assert.deepEqual(Object.keys(token), ['access_token', 'token_type', 'expires_in', 'scope', 'refresh_token']);
  assert.equal(typeof token.expires_in, 'number');
  assert.equal(await backend.getToken(MONICA), token.access_token);
});

test('createToken stores tokens that the key may not receive', async () => {
  const { 'zoomgate-caller-key': key } = site.secrets;
  site.secrets['zoomgate-caller-key'] = process.env.ZOOMGATE_KEY_WITHOUT_TOKENS;
  const token = await backend.createToken({ code: await newCode(MONICA), userEmail: MONICA });
  site.secrets['zoomgate-caller-key'] = key;
  assert.equal(token, undefined);
  assert.equal((await backend.getRequest({ url: '/users/me', userEmail: MONICA })).status, 200);
});

test('the tokens contain a refresh token only if the key may receive one', async (context) => {
  const key = site.secrets['zoomgate-caller-key'];
  context.after(() => (site.secrets['zoomgate-caller-key'] = key));
  site.secrets['zoomgate-caller-key'] = process.env.ZOOMGATE_KEY_WITHOUT_REFRESH_TOKENS;
  const { refresh_token } = await newTokens(OMAR);
  const requested = await backend.requestToken({ refresh_token, userEmail: OMAR });
  const created = await backend.createToken({ code: await newCode(OMAR), userEmail: OMAR });
  for (const token of [created, requested]) {
    assert.deepEqual(Object.keys(token), ['access_token', 'token_type', 'expires_in', 'scope']);
  }
});

test('createTokenWrapper stores tokens without returning them, and reports a rejected code', async () => {
  site.member = MONICA;
  assert.deepEqual(await backend.createTokenWrapper({ code: await newCode(MONICA) }), { success: true });
  assert.deepEqual(await backend.createTokenWrapper({ code: 'unknown' }), { success: false });
  await assert.rejects(backend.createTokenWrapper({ code: await newCode(OMAR) }), {
    message: /^IDENTITY_MISMATCH: /,
  });
});

test('refreshToken returns a new access token', async () => {
  const { refresh_token } = await backend.createToken({ code: await newCode(MONICA), userEmail: MONICA });
  const before = await backend.getToken(MONICA);
  const after = await backend.refreshToken({ refresh_token, userEmail: MONICA });
  assert.notEqual(after, before);
  assert.equal(await backend.getToken(MONICA), after);
});

test('requestToken stores the tokens of a refresh token from elsewhere', async () => {
  const { refresh_token } = await newTokens(OMAR);
  const token = await backend.requestToken({ refresh_token, userEmail: OMAR });
  assert.notEqual(token.refresh_token, refresh_token);
  assert.equal(await backend.getToken(OMAR), token.access_token);
});

test('isTokenExpired compares the lifetime with the date', async () => {
  const expiresIn = 3600;
  assert.deepEqual(await backend.isTokenExpired({ expiresIn, updatedDate: new Date() }), { success: false });
  const updatedDate = '2026-01-01T00:00:00.000Z';
  assert.deepEqual(await backend.isTokenExpired({ expiresIn, updatedDate }), { success: true });
});

for (const [field, identifiers] of [
  ['updatedDate', { expiresIn: 3600 }],
  ['updatedDate', { expiresIn: 3600, updatedDate: null }],
  ['updatedDate', { expiresIn: 3600, updatedDate: 'yesterday' }],
  ['expiresIn', { updatedDate: new Date() }],
  ['expiresIn', { expiresIn: null, updatedDate: new Date() }],
  ['expiresIn', { expiresIn: 3599.5, updatedDate: new Date() }],
]) {
  test(`isTokenExpired names the invalid ${field} of ${JSON.stringify(identifiers)}`, async () => {
    const message = new RegExp(`^${field} is invalid; `);
    await assert.rejects(backend.isTokenExpired(identifiers), { message });
  });
}

test('characters that a URL cannot contain are escaped as by fetch, and only once', async (context) => {
  await connect(MONICA);
  const query = 'a=Ünal 1&b=%C3%9C&c=100%25';
  assert.equal((await backend.getRequest({ url: `/users/me?${query}`, userEmail: MONICA })).status, 200);
  let sent;
  await serveAsZoomgate(context, async (request, response) => {
    sent = JSON.parse(Buffer.concat(await request.toArray())).url;
    response.end(JSON.stringify({ response: { status: 204 } }));
  });
  await backend.getRequest({ url: `https://api.zoom.us/v2/users/me?${query}`, userEmail: MONICA });
  assert.equal(sent, new URL(`https://api.zoom.us/v2/users/me?${query}`).href);
});

test('getRequest, postRequest, patchRequest and deleteRequest return Zoom’s response', async () => {
  await connect(MONICA);
  const created = await backend.postRequest({
    url: 'https://api.zoom.us/v2/users/me/meetings',
    dataToSend: { topic: 'Second', type: 2 },
    userEmail: MONICA,
  });
  assert.equal(created.status, 201);
  assert.match(created.headers.get('content-type'), /^application\/json/);
  const url = `https://api.zoom.us/v2/meetings/${(await created.json()).id}`;
  const patched = await backend.patchRequest({ url, dataToSend: { topic: 'Third' }, userEmail: MONICA });
  assert.equal(patched.status, 204);
  assert.equal((await (await backend.getRequest({ url, userEmail: MONICA })).json()).topic, 'Third');
  assert.equal((await backend.deleteRequest({ url, userEmail: MONICA })).status, 204);
  const missing = await backend.getRequest({ url, userEmail: MONICA });
  assert.deepEqual([missing.ok, missing.status, (await missing.json()).code], [false, 404, 3001]);
});

test('an error has the code, the reason and the details of Zoomgate', async () => {
  const userEmail = 'nobody@example.com';
  await assert.rejects(backend.getToken(userEmail), {
    name: 'ZoomgateError',
    code: 'failed_precondition',
    reason: 'ZOOM_NOT_CONNECTED',
    message: /^ZOOM_NOT_CONNECTED: /,
  });
  await assert.rejects(backend.getToken('no-address'), (error) => {
    assert.equal(error.reason, 'INVALID_FIELD');
    assert.deepEqual(
      error.fieldViolations.map(({ field }) => field),
      ['user_email'],
    );
    return true;
  });
});

test('a response that is not from Zoomgate is reported with its status', async () => {
  const { zoomgateUrl } = site.config.zoom;
  site.config.zoom.zoomgateUrl = `${zoomgateUrl}/elsewhere`;
  const failure = { code: 'unknown', reason: undefined, message: /^zoomgateUrl responded with HTTP status 404.*ZOOMGATE_CONNECT_RPC/ };
  await assert.rejects(backend.getToken(MONICA), failure);
  site.config.zoom.zoomgateUrl = zoomgateUrl;
});

test('a page receives neither the key nor tokens, and a zak only in the start_url of a meeting of the member', async () => {
  await connect(MONICA);
  const userEmail = MONICA;
  const codes = [await newCode(MONICA), await newCode(OMAR)];
  const meetingId = String((await backend.createMeeting({ userEmail })).id);
  const calls = {
    authorizeUser: () => page.authorizeUser({ userEmail }),
    createMeeting: () => backend.createMeeting({ userEmail }),
    getMeeting: () => backend.getMeeting({ userEmail, meetingId }),
    deleteMeeting: () => backend.deleteMeeting({ userEmail, meetingId }),
    getMissingMeeting: () => backend.getMeeting({ userEmail, meetingId }),
    deleteMissingMeeting: () => backend.deleteMeeting({ userEmail, meetingId }),
    createTokenWrapper: () => backend.createTokenWrapper({ code: codes[0] }),
    createTokenOfAnotherUser: () => backend.createTokenWrapper({ code: codes[1] }),
  };
  const secrets = /zgk_|sim-[ar]t-|access_token|refresh_token/;
  assert.match(process.env.ZOOMGATE_KEY, secrets);
  assert.match(await backend.getToken(MONICA), secrets);
  const withZak = [];
  for (const [name, run] of Object.entries(calls)) {
    const [{ value, reason }] = await Promise.allSettled([run()]);
    const seen = JSON.stringify(value ?? '') + String(reason?.stack);
    assert.doesNotMatch(seen, secrets);
    if (seen.includes('zak=')) withZak.push(name);
    if (value?.start_url) assert.ok(!JSON.stringify({ ...value, start_url: '' }).includes('zak='));
  }
  assert.deepEqual(withZak, ['createMeeting', 'getMeeting']);
});

test('the error of Wix is thrown if the secret is missing or Zoomgate cannot be reached', async (context) => {
  const { secrets, config } = site;
  context.after(() => Object.assign(site, { secrets, config }));
  site.secrets = {};
  await assert.rejects(backend.getToken(MONICA), { message: 'There is no secret named zoomgate-caller-key' });
  Object.assign(site, { secrets, config: { zoom: { zoomgateUrl: 'http://127.0.0.1:1' } } });
  await assert.rejects(backend.getToken(MONICA), { message: 'fetch failed' });
});

test('an invalid key is named, and is not in the error', async (context) => {
  const { secrets } = site;
  context.after(() => (site.secrets = secrets));
  const key = secrets['zoomgate-caller-key'];
  for (const invalid of [`${key}\ncalendar key`, `\u201c${key}\u201d`, `${key}\u0000`, '']) {
    site.secrets = { 'zoomgate-caller-key': invalid };
    await assert.rejects(backend.getToken(MONICA), {
      message: 'The secret zoomgate-caller-key is invalid; store only the key',
    });
  }
  site.secrets = { 'zoomgate-caller-key': `\ufeff${key}\n` };
  await assert.rejects(backend.getToken('nobody@example.com'), { reason: 'ZOOM_NOT_CONNECTED' });
});

test('an invalid zoomgateUrl is named', async (context) => {
  const { config } = site;
  context.after(() => (site.config = config));
  for (const zoom of [{ clientId: 'app' }, { zoomgateUrl: '127.0.0.1:8080' }, { zoomgateUrl: 'https://zoomgate example' }, undefined]) {
    site.config = { zoom };
    await assert.rejects(backend.getToken(MONICA), { message: /^zoomgateUrl is missing or not a URL; .*config\.json/ });
  }
});
