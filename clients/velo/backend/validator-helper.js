import { loggedInAs } from './zoomgate/member.js';
import { call } from './zoomgate/rpc.js';

/**
 * Check whether a token has expired.
 *
 * @param {{expiresIn: number, updatedDate: Date | string}} identifiers the lifetime in whole seconds, and when the token was issued
 * @returns {Promise<{success: boolean}>} `success` is true if the token has expired
 */
export async function isTokenExpired({ expiresIn, updatedDate }) {
  if (!Number.isInteger(expiresIn)) throw new Error('expiresIn is invalid; pass the lifetime of the token in whole seconds');
  const issued = new Date(updatedDate ?? NaN);
  if (Number.isNaN(issued.getTime())) throw new Error('updatedDate is invalid; pass the date on which the token was issued');
  const facts = { expiresIn, updateTime: issued.toISOString() };
  const { expired = false } = await call('AuthService/CheckToken', { facts });
  return { success: expired };
}

/**
 * Check whether the member who is logged in has the given email address.
 *
 * @param {string} userEmail
 * @returns {Promise<{valid: true} | {valid: false, reason: string}>}
 */
export async function isValidUser(userEmail) {
  try {
    await loggedInAs(userEmail);
    return { valid: true };
  } catch ({ message }) {
    return { valid: false, reason: message };
  }
}
