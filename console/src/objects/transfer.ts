// Bytes to the store and from it, through the app alone: what is large goes in parts.

import { address, ApiError, BASE, errorOf, heard, isAway, json, keyHeaders, request } from '../api';
import type { Link, VersionPage } from '../model';

/** Well below what the platform takes as a body. */
const PART = 16 * 1024 * 1024;

/** `fetch` cannot tell how much of a body was sent; this can. */
function send(
  method: string,
  url: string,
  headers: Record<string, string>,
  body: Blob,
  onProgress: (part: number) => void,
  signal: AbortSignal,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.open(method, url);
    for (const [name, value] of Object.entries(headers)) sending.setRequestHeader(name, value);
    sending.upload.onprogress = (event) => onProgress(event.loaded / (event.total || 1));
    sending.onload = async () => {
      heard(true);
      if (sending.status >= 200 && sending.status < 300) resolve();
      else reject(await errorOf(sending.status, sending.responseText));
    };
    sending.onerror = async () => {
      heard(false);
      reject(await errorOf(0, ''));
    };
    sending.onabort = () => reject(signal.reason);
    signal.throwIfAborted();
    signal.addEventListener('abort', () => sending.abort());
    sending.send(body);
  });
}

const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Do what may be done twice: the last part of a number counts, and a completion tells what the first one did. */
async function insist(work: () => Promise<unknown>, signal: AbortSignal): Promise<void> {
  for (let left = 3; ; left -= 1) {
    try {
      await work();
      return;
    } catch (error) {
      const isPassing = error instanceof ApiError && (error.status === 0 || error.status === 429 || error.status >= 500);
      if (!isPassing || left === 0) throw error;
      await pause(500 * 2 ** (3 - left));
      // An upload does not end because the app is away for a while.
      while (isAway.value) {
        await request('GET', 'health/live', { signal }).catch(() => pause(2000));
        signal.throwIfAborted();
      }
    }
  }
}

interface Options {
  replace: boolean;
  onProgress: (part: number) => void;
  signal: AbortSignal;
}

export async function upload(key: string, file: Blob, options: Options): Promise<void> {
  const type = file.type || 'application/octet-stream';
  const only: Record<string, string> = options.replace ? {} : { 'If-None-Match': '*' };
  if (file.size > PART) return uploadParts(key, file, type, only, options);
  const headers = { ...keyHeaders(), ...only, 'Content-Type': type };
  return send('PUT', address('objects', { key }), headers, file, options.onProgress, options.signal);
}

async function uploadParts(key: string, file: Blob, type: string, only: Record<string, string>, options: Options): Promise<void> {
  const { onProgress, signal } = options;
  // Refused before the bytes are sent, if it is to be refused.
  if (only['If-None-Match'] && (await exists(key, signal))) throw new ApiError(412, null);
  const { upload_id } = await json<{ upload_id: string }>('POST', 'uploads', { query: { key }, json: { content_type: type }, signal });
  try {
    const parts = Math.ceil(file.size / PART);
    for (let part = 1; part <= parts; part += 1) {
      const from = (part - 1) * PART;
      const bytes = file.slice(from, from + PART);
      const url = address('uploads', { key, upload_id, part });
      const told = (share: number) => onProgress((from + share * bytes.size) / file.size);
      await insist(() => send('PUT', url, { ...keyHeaders(), 'Content-Type': 'application/octet-stream' }, bytes, told, signal), signal);
    }
    await insist(() => request('POST', 'uploads', { query: { key, upload_id }, headers: only, json: {}, signal }), signal);
  } catch (error) {
    // Its parts are of no more use. If this fails too, they go with the upload's time.
    request('DELETE', 'uploads', { query: { key, upload_id } }).catch(() => undefined);
    throw error;
  }
}

async function exists(key: string, signal: AbortSignal): Promise<boolean> {
  try {
    await request('HEAD', 'objects', { query: { key }, signal });
    return true;
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return false;
    throw error;
  }
}

export async function download(key: string, size: number): Promise<void> {
  const link = await json<Link>('POST', 'links', { query: { key }, json: { method: 'GET', expires_in: 300 } });
  const anchor = document.createElement('a');
  anchor.download = key.split('/').pop() || 'object';
  anchor.rel = 'noopener';
  if (link.through === 'app') {
    // The app may not know behind which path it is.
    anchor.href = `${BASE}/${/\/(signed[/?].*)$/.exec(link.url)?.[1]}`;
  } else if (size <= PART) {
    // What comes from elsewhere a browser shows rather than keeps, and the store's name for it is another.
    anchor.href = URL.createObjectURL(await (await request('GET', 'objects', { query: { key } })).blob());
    setTimeout(() => URL.revokeObjectURL(anchor.href), 10_000);
  } else {
    anchor.href = link.url;
    anchor.target = '_blank';
  }
  anchor.click();
}

export interface Opened {
  key: string;
  /** Where the bytes are: the key, or that of one of its versions. */
  storedAs: string;
  /** Of an object that is kept as versions alone: which this is, and the number of the last one. */
  version?: number;
  newest?: number;
  bytes: Uint8Array;
  /** Of the whole object, of which `bytes` may be the beginning. */
  size: number;
  type: string;
  etag: string;
  modified: string;
  expires: string | null;
  sha256: string | null;
  metadata: Record<string, string>;
  /** The headers by which a save keeps what is stored beside the bytes. */
  kept: Record<string, string>;
}

/** At most this much is loaded to be shown. */
export const SHOWN = 2 * 1024 * 1024;

/** What a header cannot carry comes percent-encoded. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export const isStatus = (error: unknown, status: number): boolean => error instanceof ApiError && error.status === status;

/** The object, or the current one of its versions if it has no value of its own. */
export async function openAny(key: string, signal: AbortSignal): Promise<Opened> {
  try {
    return await open(key, signal);
  } catch (error) {
    if (!isStatus(error, 404)) throw error;
    try {
      const { versions, current } = await json<VersionPage>('GET', 'versions', { query: { key, limit: 1 }, signal });
      const found = current && versions[0] ? await open(key, signal, current) : null;
      if (!found) throw error;
      return { ...found, newest: versions[0]!.number };
    } catch (other) {
      // Without versions, or the right to see them, it is simply not there.
      throw other instanceof ApiError && other.status < 500 ? error : other;
    }
  }
}

export async function open(key: string, signal: AbortSignal, version?: number): Promise<Opened> {
  const path = version === undefined ? 'objects' : 'versions';
  const call = { query: { key, version }, signal };
  let response: Response;
  try {
    response = await request('GET', path, { ...call, headers: { Range: `bytes=0-${SHOWN - 1}` } });
  } catch (error) {
    // An empty object has no range.
    if ((error as { status?: number }).status !== 416) throw error;
    response = await request('GET', path, call);
  }
  const header = (name: string): string => response.headers.get(name) ?? '';
  const bytes = new Uint8Array(await response.arrayBuffer());
  const [metadata, kept]: [Record<string, string>, Record<string, string>] = [{}, {}];
  response.headers.forEach((value, name) => {
    if (name.startsWith('x-meta-')) metadata[decoded(name.slice(7))] = decoded(value);
    else if (!['x-expires-at', 'content-disposition', 'content-language', 'cache-control'].includes(name)) return;
    // Of the app's own, not of the object; and what a version is given when it is saved.
    if (['x-meta-saved-by', 'x-meta-saved-at'].includes(name)) return;
    if (name !== 'cache-control' || value !== 'private, no-cache') kept[name] = value;
  });
  const digest = /sha-256=:([^:]+):/.exec(header('Repr-Digest'))?.[1];
  return {
    key,
    storedAs: version === undefined ? key : `${key}/v${version}`,
    ...(version === undefined ? {} : { version }),
    bytes,
    size: Number(/\/(\d+)$/.exec(header('Content-Range'))?.[1] ?? bytes.length),
    type: header('Content-Type'),
    etag: header('ETag'),
    modified: header('Last-Modified'),
    expires: header('x-expires-at') || null,
    sha256: digest ? [...atob(digest)].map((sign) => sign.charCodeAt(0).toString(16).padStart(2, '0')).join('') : null,
    metadata,
    kept,
  };
}
