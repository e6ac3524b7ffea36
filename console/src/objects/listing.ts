// The names below a prefix, page by page, as many as the user scrolls to; or all of them, for a search.

import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { json } from '../api';
import type { ListedObject, ObjectPage } from '../model';
import { T } from '../texts';
import { matcher } from './names';
import { ownerOfRecord, ownerOfVersion } from './versioned';

const PAGE = 1000;

/** A folder, an object, or one that is kept as versions alone. */
export type Row = { prefix: string } | ListedObject | { versions: string };

export interface Listing {
  rows: Row[];
  seen: number;
  isDone: boolean;
  isLoading: boolean;
  error?: Error;
  more: () => void;
  /** Go on where it has failed. */
  again: () => void;
  stop: () => void;
}

export const nameOf = (row: Row): string => ('prefix' in row ? row.prefix : 'versions' in row ? row.versions : row.key);

interface State {
  /** Of which place it is: the rows of another one are not shown for it, not even for a moment. */
  of: string;
  rows: Row[];
  seen: number;
  isDone: boolean;
  isLoading: boolean;
  error?: Error;
}

/** Adds a page to rows: what the versions of an object are kept as is no row by itself, the object is. */
function folding(matches: (key: string) => boolean): (before: Row[], page: ObjectPage) => Row[] {
  const owners = new Set<string>();
  const records = new Set<string>();
  const keys = new Set<string>();
  return (before, page) => {
    const rows: Row[] = page.prefixes.map((prefix) => ({ prefix }));
    let isRecordShown = false;
    for (const each of page.objects) {
      const owner = ownerOfVersion(each.key);
      if (owner !== undefined) {
        if (owners.has(owner)) continue;
        owners.add(owner);
        isRecordShown ||= records.has(owner);
        if (matches(owner) && !keys.has(owner)) rows.push({ versions: owner });
        continue;
      }
      const record = ownerOfRecord(each.key);
      if (record !== undefined) records.add(record);
      if (!matches(each.key)) continue;
      keys.add(each.key);
      rows.push(each);
    }
    // Folders and objects come in one order, as the store has it.
    rows.sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1));
    const all = before.concat(rows);
    if (!isRecordShown) return all;
    return all.filter((row) => !('key' in row) || !owners.has(ownerOfRecord(row.key) ?? '/'));
  };
}

/** Folders and objects of a prefix; with a pattern every object below it that matches. */
export function useListing(prefix: string, pattern: string, round: number): Listing {
  const of = JSON.stringify([prefix, pattern]);
  const nothing = useMemo((): State => ({ of, rows: [], seen: 0, isDone: false, isLoading: true }), [of]);
  const [state, setState] = useState(nothing);
  const next = useRef<() => void>(() => undefined);
  const again = useRef<() => void>(() => undefined);
  const stop = useRef<() => void>(() => undefined);
  useEffect(() => {
    const control = new AbortController();
    const found: State = { ...nothing };
    let cursor: string | null = null;
    const show = (change: Partial<State>) => {
      Object.assign(found, change);
      if (!control.signal.aborted) setState({ ...found });
    };
    let matches: ReturnType<typeof matcher> | null;
    try {
      matches = pattern ? matcher(pattern) : null;
    } catch {
      setState({ ...nothing, isLoading: false, error: new Error(T.list.badPattern(pattern)) });
      return undefined;
    }
    const fold = folding((key) => !matches || matches(key));
    const load = async () => {
      const { error: _, ...fine } = found;
      delete found.error;
      show({ ...fine, isLoading: true });
      try {
        do {
          const page: ObjectPage = await json('GET', 'objects', {
            query: { prefix, limit: PAGE, cursor, ...(matches ? {} : { delimiter: '/' }) },
            signal: control.signal,
          });
          cursor = page.cursor;
          found.rows = fold(found.rows, page);
          show({ seen: found.seen + page.objects.length + page.prefixes.length, isDone: cursor === null });
        } while (matches && cursor !== null && !control.signal.aborted);
        show({ isLoading: false });
      } catch (error) {
        show({ isLoading: false, error: error as Error });
      }
    };
    next.current = () => {
      if (!found.isLoading && !found.isDone && !found.error) void load();
    };
    again.current = () => {
      if (!found.isLoading) void load();
    };
    stop.current = () => {
      show({ isLoading: false, isDone: true });
      control.abort();
    };
    setState({ ...found });
    void load();
    return () => control.abort();
  }, [prefix, pattern, round]);
  return { ...(state.of === of ? state : nothing), more: next.current, again: again.current, stop: stop.current };
}
