import { site } from './site.mjs';

export const currentMember = {
  getMember: async () => site.member && { _id: 'member-1', loginEmail: site.member },
};

export const authentication = {
  loggedIn: () => site.member !== undefined,
};
