// The app's HTTP API, as this page uses it: with the user's key, which is kept for this tab alone.

import { signal } from '@preact/signals';
import { parse } from './exact';
import type { Problem } from './model';
import { isAnythingUnsaved } from './unsaved';
import { T } from './texts';

/** Where the API is: behind whatever path a proxy adds, the page is `…/console`. */
export const BASE = location.pathname.replace(/\/console\/?$/i, '').replace(/^\/+/, '/');
const KEY = 'agent-storage-key';

export const key = signal(sessionStorage.getItem(KEY) ?? '');
/** Whether the app has refused a call for want of a key, or of a better one. */
export const isKeyWanted = signal(false);
/** Changes when all that is shown is to be asked for anew. */
export const visit = signal(0);

/** Whether the last call was not answered at all. `poll.ts` asks until there is an answer. */
export const isAway = signal(false);
/** Changes when the app answers again. */
export const returns = signal(0);

export function heard(isAnswer: boolean): void {
  if (isAnswer && isAway.value) returns.value += 1;
  isAway.value = !isAnswer;
}

/** By which providers the platform has users sign in, if it does; the app tells in its page. */
export const providers = document.querySelector<HTMLMetaElement>('meta[name="sign-in"]')?.content.split(' ') ?? [];
/** The key, or the want of one, that the user does not want to be asked about again. */
let declined: string | null = null;

export function declineKey(): void {
  declined = key.value;
  isKeyWanted.value = false;
}

/** The platform's own pages lie beside the API, behind the same path. */
const platform = (page: string): string => `${BASE.replace(/\/[^/]*$/, '')}/.auth/${page}=${encodeURIComponent(location.pathname + location.hash)}`;
export const signInUrl = (provider: string): string => platform(`login/${provider}?post_login_redirect_uri`);
export const signOutUrl = (): string => platform('logout?post_logout_redirect_uri');

export function useKey(value: string): void {
  key.value = value;
  // A key that was asked for in the middle of an edit must not end it.
  if (!isAnythingUnsaved()) visit.value += 1;
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
  isKeyWanted.value = false;
  declined = null;
}

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly problem: Problem | null,
  ) {
    super(problem ? [problem.detail, problem.remedy].filter(Boolean).join('; ') : status === 401 ? T.key.needed : T.refused(status));
  }

  get code(): string {
    return this.problem?.type.split(':').pop() ?? '';
  }
}

export type Query = Record<string, string | number | boolean | null | undefined>;

export interface Call {
  query?: Query;
  headers?: Record<string, string>;
  json?: unknown;
  body?: BodyInit;
  signal?: AbortSignal;
}

export function address(path: string, query: Query = {}): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  const text = given.map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(String(value))}`);
  return `${BASE}/${path}${text.length ? `?${text.join('&')}` : ''}`;
}

export function keyHeaders(): Record<string, string> {
  return key.value ? { 'x-functions-key': key.value } : {};
}

export async function errorOf(status: number, text: string): Promise<ApiError> {
  let problem: Problem | null = null;
  try {
    const found = JSON.parse(text);
    if (typeof found?.detail === 'string') problem = found;
  } catch {
    // Not one of the app's: a proxy's or the platform's page.
  }
  if (status === 401 && declined !== key.value) isKeyWanted.value = true;
  return new ApiError(status, problem);
}

export async function request(method: string, path: string, call: Call = {}): Promise<Response> {
  const headers = { ...keyHeaders(), ...call.headers };
  let body = call.body;
  if (call.json !== undefined) {
    headers['Content-Type'] ??= 'application/json';
    body = JSON.stringify(call.json);
  }
  let response: Response;
  try {
    response = await fetch(address(path, call.query), {
      method,
      headers,
      cache: 'no-store',
      // The platform may send to a sign-in elsewhere, where a call cannot follow.
      redirect: 'manual',
      ...(body === undefined ? {} : { body }),
      ...(call.signal ? { signal: call.signal } : {}),
    });
  } catch (error) {
    if (call.signal?.aborted) throw error;
    heard(false);
    throw new ApiError(0, { status: 0, title: '', type: 'urn:agent-storage:problem:unreachable', detail: T.unreachable });
  }
  heard(true);
  if (response.type === 'opaqueredirect') throw await errorOf(401, '');
  if (!response.ok) throw await errorOf(response.status, await response.text());
  return response;
}

export async function json<A>(method: string, path: string, call: Call = {}): Promise<A> {
  return parse(await (await request(method, path, call)).text()) as A;
}
