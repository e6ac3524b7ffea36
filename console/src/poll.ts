// What is shown live is asked for again and again, in turns: an open page costs the app at most one request in two
// seconds, and none while nobody looks at it.

import { effect, signal } from '@preact/signals';
import { useEffect, useRef, useState } from 'preact/hooks';
import { isAway, request } from './api';
import { useLoaded } from './load';
import { T } from './texts';

const PAUSE = 2000;
/** What is not answered for so long keeps the others waiting no longer. */
const PATIENCE = 60_000;

type Ask = (signal: AbortSignal) => Promise<unknown>;
const asked: Ask[] = [];
let timer: ReturnType<typeof setTimeout> | undefined;
let control = new AbortController();
/** Why what is shown is no longer what there is: of each that was asked for in vain when it was last asked for. */
const failures = signal(new Map<Ask, Error>());
export const staleness = (): Error | undefined => [...failures.value.values()][0];

function note(ask: Ask, error?: Error): void {
  if (!error && !failures.value.has(ask)) return;
  const noted = new Map(failures.value);
  if (error) noted.set(ask, error);
  else noted.delete(ask);
  failures.value = noted;
}

async function turn(ask: Ask): Promise<void> {
  const asking = control.signal;
  let timeout: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, refuse) => {
    timeout = setTimeout(() => refuse(new Error(T.unreachable)), PATIENCE);
  });
  try {
    await Promise.race([ask(asking), late]);
    note(ask);
  } catch (error) {
    if (!asking.aborted && asked.includes(ask)) note(ask, error as Error);
  } finally {
    clearTimeout(timeout);
  }
}

function next(): void {
  timer ??= setTimeout(async () => {
    const ask = document.hidden || isAway.value ? undefined : asked.shift();
    if (ask) {
      asked.push(ask);
      await turn(ask);
    } else if (isAway.value && !document.hidden) {
      // Whether it has come back, before anything else is asked of it.
      await turn(knock);
    }
    timer = undefined;
    if (asked.length || isAway.value) next();
  }, PAUSE);
}

const knock: Ask = (signal) => request('GET', 'health/live', { signal });
effect(() => {
  if (isAway.value) next();
});

/** Call `ask` in its turn for as long as the component is shown. */
export function usePoll(ask: Ask, isOn = true): void {
  const latest = useRef(ask);
  latest.current = ask;
  useEffect(() => {
    if (!isOn) return undefined;
    const mine: Ask = (signal) => latest.current(signal);
    // What has just been opened is what is looked at.
    asked.unshift(mine);
    next();
    return () => {
      const at = asked.indexOf(mine);
      if (at >= 0) asked.splice(at, 1);
      note(mine);
      if (!asked.length) {
        control.abort();
        control = new AbortController();
      }
    };
  }, [isOn]);
}

/** A value that is loaded, and loaded anew in its turn. */
export function useLive<A>(ask: (signal: AbortSignal) => Promise<A>) {
  const loaded = useLoaded(ask, []);
  const [newer, setNewer] = useState<{ value?: A; error?: Error }>({});
  usePoll(async (signal) => {
    try {
      setNewer({ value: await ask(signal) });
    } catch (error) {
      if (!signal.aborted) setNewer({ error: error as Error });
    }
  });
  return { value: newer.value ?? loaded.value, error: newer.error ?? (newer.value ? undefined : loaded.error), again: loaded.again };
}
