import { currentMember } from 'wix-members-backend';

/**
 * Return the email address of the member who is logged in.
 *
 * @returns {Promise<string>}
 * @throws {Error} no member is logged in
 */
export async function loggedInMember() {
  // getMember throws if no member is logged in; the default fieldset contains no address
  const member = await currentMember.getMember({ fieldsets: ['FULL'] }).catch(() => undefined);
  if (!member?.loginEmail) throw new Error('Member is not logged in');
  return member.loginEmail;
}

/**
 * Return the email address of the member who is logged in, if it is the given one in any case.
 *
 * @param {string} userEmail
 * @returns {Promise<string>}
 * @throws {Error} no member or a different one is logged in
 */
export async function loggedInAs(userEmail) {
  const memberEmail = await loggedInMember();
  if (memberEmail.toLowerCase() !== String(userEmail).toLowerCase()) {
    throw new Error('Email addresses do not match');
  }
  return memberEmail;
}
