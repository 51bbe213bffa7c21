import { call } from './zoomgate/rpc.js';

/** @typedef {{access_token: string, token_type: string, expires_in: number, scope: string, refresh_token?: string}} Token */

/**
 * Exchange an authorization code, and store the tokens.
 *
 * @param {{code: string, userEmail: string}} tokenInfo
 * @returns {Promise<Token | undefined>} undefined if the caller's key may not receive access tokens
 */
export async function createToken({ code, userEmail }) {
  return zoomToken(await call('AuthService/CreateToken', { code, userEmail }));
}

/**
 * Refresh a user's token, and return the new access token.
 *
 * @param {{refresh_token?: string, userEmail: string}} tokenInfo `refresh_token`: one that Zoomgate has stored for the user
 * @returns {Promise<string>}
 */
export async function refreshToken({ refresh_token, userEmail }) {
  const { token } = await call('AuthService/RefreshToken', { refreshToken: refresh_token, userEmail });
  return token.accessToken;
}

/**
 * Return a valid access token of a user, refreshing it if needed.
 *
 * @param {string} userEmail
 * @returns {Promise<string>}
 */
export async function getToken(userEmail) {
  const { token } = await call('AuthService/GetToken', { userEmail });
  return token.accessToken;
}

/**
 * Exchange a refresh token that is not stored in Zoomgate, and store the new tokens.
 *
 * @param {{refresh_token: string, userEmail: string}} request
 * @returns {Promise<Token>}
 */
export async function requestToken({ refresh_token, userEmail }) {
  return zoomToken(await call('AuthService/RequestToken', { refreshToken: refresh_token, userEmail }));
}

/** Return the token of a response with Zoom's names. */
function zoomToken({ token }) {
  return token && {
    access_token: token.accessToken,
    token_type: token.tokenType,
    expires_in: Number(token.expiresIn),
    scope: token.scope,
    ...(token.refreshToken && { refresh_token: token.refreshToken }),
  };
}
