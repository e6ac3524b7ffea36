// What the user has typed and not saved: nothing takes it away unasked.

import { useLayoutEffect, useRef } from 'preact/hooks';
import { T } from './texts';

const changes = new Set<object>();

export const isAnythingUnsaved = (): boolean => changes.size > 0;

/** Whether the user may be led elsewhere; asked only if something would be lost. */
export function mayLeave(): boolean {
  if (!changes.size) return true;
  if (!confirm(T.unsaved)) return false;
  changes.clear();
  return true;
}

addEventListener('beforeunload', (event) => {
  if (changes.size) event.preventDefault();
});

/** What was changed is saved, or given up. */
export const settleAll = (): void => changes.clear();

/** Says for as long as the component is shown whether it holds a change; what it returns says that it is saved. */
export function useUnsaved(isChanged: boolean): () => void {
  const mark = useRef({}).current;
  // Before the browser does anything else: what is typed may be left at once.
  useLayoutEffect(() => {
    if (!isChanged) return undefined;
    changes.add(mark);
    return () => void changes.delete(mark);
  }, [isChanged]);
  return () => void changes.delete(mark);
}
