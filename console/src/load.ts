// A value that is loaded for a component, again when what it depends on changes.

import { useEffect, useState } from 'preact/hooks';

export interface Loaded<A> {
  value?: A;
  error?: Error;
  isLoading: boolean;
  again: () => void;
}

export function useLoaded<A>(load: (signal: AbortSignal) => Promise<A>, depends: unknown[]): Loaded<A> {
  const [round, setRound] = useState(0);
  const [state, setState] = useState<{ value?: A; error?: Error; isLoading: boolean }>({ isLoading: true });
  useEffect(() => {
    const control = new AbortController();
    setState((before) => ({ ...before, isLoading: true }));
    load(control.signal).then(
      (value) => control.signal.aborted || setState({ value, isLoading: false }),
      (error: Error) => control.signal.aborted || setState({ error, isLoading: false }),
    );
    return () => control.abort();
  }, [...depends, round]);
  return { ...state, again: () => setRound((n) => n + 1) };
}
