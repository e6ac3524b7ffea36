// What the user may do, so that the page does not offer what the app would refuse. The app decides, here nothing is
// protected.

import { computed, signal } from '@preact/signals';
import { json, key, providers } from './api';

interface Caller {
  signed_in?: boolean;
  principal: string | null;
  rights: Record<string, string[]> | null;
}

const caller = signal<Caller>({ principal: null, rights: null });

export const principal = computed(() => caller.value.principal);
/** By the platform, which can sign the user out again. */
export const isSignedIn = computed(() => providers.length > 0 && !!caller.value.signed_in);

/** Ask the app anew, as after another key was given. */
export async function learn(): Promise<void> {
  const asked = key.value;
  try {
    const found = await json<Caller>('GET', 'me');
    if (asked === key.value) caller.value = found;
  } catch {
    // Whatever is asked for next tells why.
    if (asked === key.value) caller.value = { principal: null, rights: null };
  }
}

/** Whether a right reaches an object or everything below a prefix. */
export function may(action: 'load' | 'list' | 'save' | 'delete', place: string): boolean {
  const { rights } = caller.value;
  if (!rights) return true;
  return (rights[action] ?? []).some((each) => !each || place === each || place.startsWith(each.endsWith('/') ? each : `${each}/`));
}

/** Whether a right reaches an object, or one below a prefix, somewhere. */
export function mayBelow(action: 'load' | 'list' | 'save' | 'delete', prefix: string): boolean {
  const { rights } = caller.value;
  return may(action, prefix) || !!rights?.[action]?.some((each) => each.startsWith(prefix));
}

/** Whether the user may use any of these, or may see what is the app's own. */
export function mayUse(action: 'tasks' | 'tables' | 'queues'): boolean {
  const { rights } = caller.value;
  return !rights || !!rights[action]?.length || (action !== 'tasks' && !!rights.operate?.length);
}

export function mayName(action: 'tasks' | 'tables' | 'queues', name: string): boolean {
  const { rights } = caller.value;
  return !rights || !!rights[action]?.some((each) => each === '*' || each === name);
}

export const operates = computed(() => !caller.value.rights || !!caller.value.rights.operate?.length);

/** Those that the user may use by name; none if it may use all. */
export const namesOf = (action: 'tasks' | 'tables' | 'queues'): string[] => (caller.value.rights?.[action] ?? []).filter((each) => each !== '*');
