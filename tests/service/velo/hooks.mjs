// Resolves imports as Wix does: its own modules, here to the stand-ins in wix/, and the modules of an app that was built in Wix Blocks.
import { readFile } from 'node:fs/promises';

const APP = new URL('../../../clients/velo/', import.meta.url);
const README = await readFile(new URL('README.md', APP), 'utf8');
const WEB_MODULE = 'backend/zoom-api-wrapper.jsw';
const WEB_FUNCTIONS = [
  'beginAuthorization',
  'completeAuthorization',
  'createTokenWrapper',
  'createMeeting',
  'getMeeting',
  'deleteMeeting',
];

const SOURCES = {
  [WEB_MODULE]: `
    import * as functions from '${new URL(WEB_MODULE, APP)}';
    import { remote } from '${new URL('wix/web-module.mjs', import.meta.url)}';
    export const { ${WEB_FUNCTIONS.join(', ')} } = remote(functions);`,
  '@example/zoomgate': `export * from '${new URL('public/init-zoom.js', APP)}';`,
  '@example/zoomgate-backend': `
    export * from '${new URL('backend/zoom-auth.js', APP)}';
    export * from '${new URL('backend/zoom-api.js', APP)}';
    export * from '${new URL('backend/validator-helper.js', APP)}';
    export * from '${WEB_MODULE}';`,
  'page-of-the-readme': README.match(/^```js\n(.+?)^```$/ms)[1],
};

export async function resolve(specifier, context, next) {
  if (specifier in SOURCES) return { url: `generated:${specifier}`, shortCircuit: true };
  if (specifier.startsWith('wix-')) {
    return { url: new URL(`wix/${specifier}.mjs`, import.meta.url).href, shortCircuit: true };
  }
  return next(specifier, context);
}

export async function load(url, context, next) {
  if (url.startsWith('generated:')) {
    return { format: 'module', source: SOURCES[url.slice('generated:'.length)], shortCircuit: true };
  }
  if (url.endsWith('.jsw')) {
    return { format: 'module', source: await readFile(new URL(url)), shortCircuit: true };
  }
  return next(url, context);
}
