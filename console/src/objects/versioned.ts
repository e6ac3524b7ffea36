// Objects that have versions. Those are kept as `KEY/v1`, `KEY/v2`, …, and `KEY/current` says which is current: for
// people that is the object KEY, not a folder.

import { useEffect, useMemo, useState } from 'preact/hooks';
import { json } from '../api';
import type { Row } from './listing';

/** Of the key of a version, the object that it is one of. */
export const ownerOfVersion = (key: string): string | undefined => /^(.+)\/v[1-9]\d{0,15}$/s.exec(key)?.[1];
export const ownerOfRecord = (key: string): string | undefined => (key.endsWith('/current') ? key.slice(0, -8) || undefined : undefined);

const AT_ONCE = 100;
const PAUSE = 300;
const LARGEST_RECORD = 64 * 1024;

/**
 * The rows, with what turned out to be an object in place of its folder: asked for all folders in sight at once, when
 * the user has stopped to scroll, and once for each.
 */
export function useVersioned(rows: Row[], [first, last]: [number, number], round: number): Row[] {
  const [known, setKnown] = useState(new Map<string, boolean>());
  const shown = useMemo(() => tidy(rows, known), [rows, known]);
  useEffect(() => setKnown((before) => new Map([...before].filter(([, isObject]) => isObject))), [round]);
  useEffect(() => {
    const folders = shown.slice(first, last).flatMap((row) => ('prefix' in row && !known.has(row.prefix) ? [row.prefix] : []));
    if (!folders.length) return undefined;
    const control = new AbortController();
    const ask = async () => {
      const asked = folders.slice(0, AT_ONCE);
      const found = await objectsAmong(asked, control.signal);
      setKnown((before) => new Map([...before, ...asked.map((each): [string, boolean] => [each, found.has(each)])]));
    };
    // It is only about how they look; the next to be scrolled to are asked for anyway.
    const timer = setTimeout(() => void ask().catch(() => undefined), PAUSE);
    return () => {
      clearTimeout(timer);
      control.abort();
    };
  }, [shown, first, last]);
  return shown;
}

interface Result {
  status: number;
  size?: number;
  value?: { version?: unknown };
}

/** What may not be asked for is a folder, as its name says. */
async function objectsAmong(folders: string[], signal: AbortSignal): Promise<Set<string>> {
  const batch = async (operations: { op: string; key: string }[]) =>
    (await json<{ results: Result[] }>('POST', 'batch', { json: { operations }, signal })).results;
  const results = await batch(folders.flatMap((each) => [{ op: 'exists', key: `${each}v1` }, { op: 'exists', key: `${each}current` }]));
  const isThere = (at: number) => results[at]?.status === 200;
  const found = new Set(folders.filter((_, at) => isThere(2 * at)));
  // Where the first version is gone, an object of that name may be anybody's: what it says decides.
  const unsure = folders.filter((each, at) => !found.has(each) && isThere(2 * at + 1) && (results[2 * at + 1]!.size ?? 0) < LARGEST_RECORD);
  if (unsure.length) {
    const records = await batch(unsure.map((each) => ({ op: 'load', key: `${each}current` })));
    unsure.forEach((each, at) => typeof records[at]?.value?.version === 'number' && found.add(each));
  }
  return found;
}

function tidy(rows: Row[], known: Map<string, boolean>): Row[] {
  if (![...known.values()].includes(true)) return rows;
  const keys = new Set(rows.map((row) => ('key' in row ? row.key : undefined)));
  return rows.flatMap((row): Row[] => {
    if (!('prefix' in row) || !known.get(row.prefix)) return [row];
    const owner = row.prefix.slice(0, -1);
    return keys.has(owner) ? [] : [{ versions: owner }];
  });
}
