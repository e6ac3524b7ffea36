// What has happened, told at the edge of the page and to screen readers.

import { signal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import { ApiError, returns } from '../api';
import { T } from '../texts';

interface Notice {
  id: number;
  text: string;
  isError: boolean;
}

const notices = signal<Notice[]>([]);
let last = 0;

const drop = (id: number) => {
  notices.value = notices.value.filter((each) => each.id !== id);
};

export function tell(text: string, { isError = false } = {}): void {
  const id = (last += 1);
  notices.value = [...notices.value.slice(-4), { id, text, isError }];
  // An error stays until it was read.
  if (!isError) setTimeout(() => drop(id), 5000);
}

export const fail = (error: unknown): void => tell(error instanceof Error ? error.message : String(error), { isError: true });

export function Notices() {
  return (
    <div class="notices" role="status" aria-live="polite">
      {notices.value.map((each) => (
        <div key={each.id} class={each.isError ? 'notice error' : 'notice'}>
          <span>{each.text}</span>
          <button type="button" class="plain" aria-label={T.close} onClick={() => drop(each.id)}>
            ×
          </button>
        </div>
      ))}
    </div>
  );
}

export function Trouble({ error, again }: { error: Error; again?: () => void }) {
  const since = useRef(returns.value);
  useEffect(() => {
    if (returns.value === since.current) return;
    since.current = returns.value;
    // What the app was not there to answer is asked again once it is.
    if (error instanceof ApiError && error.status === 0) again?.();
  }, [returns.value]);
  return (
    <div class="trouble" role="alert">
      <p>{error.message}</p>
      {again && (
        <button type="button" onClick={again}>
          {T.tryAgain}
        </button>
      )}
    </div>
  );
}
