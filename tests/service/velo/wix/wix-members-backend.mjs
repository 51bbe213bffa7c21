import { site } from './site.mjs';

export const currentMember = {
  async getMember({ fieldsets = ['PUBLIC'] } = {}) {
    if (site.member === undefined) throw new Error('No member is logged in');
    return { _id: 'member-1', ...(fieldsets.includes('FULL') && { loginEmail: site.member }) };
  },
};
