import wixLocationFrontend from 'wix-location-frontend';
import { authentication } from 'wix-members-frontend';
import wixWindowFrontend from 'wix-window-frontend';
import { beginAuthorization, completeAuthorization } from 'backend/zoom-api-wrapper.jsw';

/** The form of the states that Zoomgate creates. A page may also receive the states of other integrations. */
const STATE = /^[\w-]{43}$/;

/**
 * Open Zoom's page on which the member allows access.
 *
 * @param {{userEmail: string, options?: object}} authorization `options` are returned by `initZoom`
 * @returns {Promise<void>}
 */
export async function authorizeUser({ userEmail, options }) {
  wixLocationFrontend.to(await beginAuthorization({ userEmail, options }));
}

/**
 * Return the query parameters of the page, such as `code` and `state` after a redirect from Zoom.
 *
 * @returns {Record<string, string>}
 */
export function getQueryParams() {
  return wixLocationFrontend.query;
}

/**
 * Connect the member if Zoom has redirected the browser to this page. Otherwise, do nothing.
 *
 * @param {{code?: string}} [data] the code, by default the one in the URL of the page
 * @returns {Promise<{userEmail: string, options: object} | undefined>} what was passed to `authorizeUser`; undefined if nothing was done
 * @throws {Error} no member is logged in; the URL then remains unchanged, so that a call after the login can connect the member
 */
export async function initZoom({ code } = {}) {
  const query = { ...getQueryParams(), ...(code && { code }) };
  if (!STATE.test(query.state ?? '') || !(query.code || query.error)) return undefined;
  // a state can be used only once, and Wix also runs the code of a page on its servers
  if (wixWindowFrontend.rendering.env !== 'browser') return undefined;
  if (!authentication.loggedIn()) throw new Error('Member is not logged in');
  const callbackUrl = `?${new URLSearchParams(query)}`;
  // a reload of the page must not send the code again
  wixLocationFrontend.queryParams.remove(['code', 'state', 'error', 'error_description']);
  return completeAuthorization({ callbackUrl });
}
