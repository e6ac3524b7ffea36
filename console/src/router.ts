// The view is told by the fragment, `#/objects/configs/?key=…`: a deep link to everything, behind any path.

import { computed, signal } from '@preact/signals';
import { mayLeave } from './unsaved';

export interface Place {
  view: string;
  query: Record<string, string>;
}

function read(hash = location.hash): Place {
  const [, path, text = ''] = /^#?\/?([^?]*)\??(.*)$/s.exec(hash)!;
  return { view: path || 'objects', query: Object.fromEntries(new URLSearchParams(text)) };
}

export const place = signal(read());
export const view = computed(() => place.value.view);

/** What a place shows beside its list: an editor of it stays open as long as that stays the same. */
const subject = ({ view, query }: Place): string =>
  JSON.stringify([view, query.key, query.tab, query.id, query.task, query.table, query.entity, query.queue, !!query.submit, query.edit]);

const mayGo = (to: string): boolean => subject(read(to)) === subject(place.value) || mayLeave();

let here = location.hash;
addEventListener('hashchange', () => {
  if (location.hash === here) return;
  if (!mayGo(location.hash)) {
    // Gone by the browser's own buttons: the address becomes again what is shown.
    history.pushState(null, '', here || '#/');
    return;
  }
  here = location.hash;
  place.value = read();
});
document.addEventListener(
  'click',
  (event) => {
    const to = (event.target as Element).closest('a')?.getAttribute('href');
    if (to?.startsWith('#/') && !event.ctrlKey && !event.metaKey && !event.shiftKey && !mayGo(to)) event.preventDefault();
  },
  true,
);

export function link(view: string, query: Record<string, string | undefined> = {}): string {
  const given = Object.entries(query).filter((each): each is [string, string] => !!each[1]);
  const text = new URLSearchParams(given).toString();
  return `#/${view}${text ? `?${text}` : ''}`;
}

export function go(to: string, { replace = false } = {}): void {
  if (!mayGo(to)) return;
  if (replace) history.replaceState(null, '', to);
  else location.hash = to;
  // At once: the event of it comes later, when the address may have been changed again.
  here = location.hash;
  place.value = read();
}
