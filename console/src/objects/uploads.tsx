// Files on their way to the store.

import { signal } from '@preact/signals';
import { ApiError } from '../api';
import { T } from '../texts';
import { Dialog } from '../ui/dialog';
import { fail, tell } from '../ui/notices';
import { upload } from './transfer';

interface Item {
  id: number;
  name: string;
  part: number;
  stop: () => void;
}

interface Asked {
  id: number;
  key: string;
  file: File;
}

export interface UploadList {
  items: Item[];
  asked: Asked | undefined;
  add: (files: File[]) => void;
  answer: (replace: boolean) => void;
}

/** More would keep the page's other calls waiting: a browser has six connections to an app. */
const AT_ONCE = 3;

let last = 0;
let running = 0;
const waiting: (() => void)[] = [];
// They go on, and can be stopped and answered for, whatever view is shown.
const items = signal<Item[]>([]);
const questions = signal<Asked[]>([]);
/** Changes when files have been saved. */
export const finished = signal(0);
let isChanged = false;

addEventListener('beforeunload', (event) => {
  if (items.value.length) event.preventDefault();
});

/** Wait for it; who is stopped while waiting needs none. */
async function turn(signal: AbortSignal): Promise<void> {
  if (running < AT_ONCE) {
    running += 1;
    return;
  }
  await new Promise<void>((go, refuse) => {
    waiting.push(go);
    signal.addEventListener('abort', () => {
      const at = waiting.indexOf(go);
      if (at < 0) return;
      waiting.splice(at, 1);
      refuse(signal.reason);
    });
  });
}

async function run(key: string, file: File, replace: boolean): Promise<void> {
  const control = new AbortController();
  let hasTurn = false;
  const id = (last += 1);
  items.value = [...items.value, { id, name: key, part: 0, stop: () => control.abort() }];
  try {
    await turn(control.signal);
    hasTurn = true;
    await upload(key, file, {
      replace,
      signal: control.signal,
      onProgress: (part) => {
        items.value = items.value.map((each) => (each.id === id ? { ...each, part } : each));
      },
    });
    tell(T.upload.saved(key));
    isChanged = true;
  } catch (error) {
    if (control.signal.aborted) tell(T.upload.cancelled(key));
    else if (error instanceof ApiError && error.status === 412 && !replace) questions.value = [...questions.value, { id, key, file }];
    else fail(new Error(`${key}: ${(error as Error).message}`));
  } finally {
    items.value = items.value.filter((each) => each.id !== id);
    // Its turn goes to the next.
    const next = hasTurn && waiting.shift();
    if (next) next();
    else if (hasTurn) running -= 1;
    // The list is not loaded anew for each of a thousand.
    if (isChanged && !waiting.length) finished.value += 1;
    if (!waiting.length) isChanged = false;
  }
}

export function useUploads(prefix: string): UploadList {
  return {
    items: items.value,
    asked: questions.value[0],
    // Some systems write names in another form of Unicode than keys have.
    add: (files) => files.forEach((file) => void run((prefix + file.name).normalize('NFC'), file, false)),
    answer: (replace) => {
      const [first, ...others] = questions.value;
      questions.value = others;
      if (first && replace) void run(first.key, first.file, true);
    },
  };
}

export function Uploads({ uploads }: { uploads: UploadList }) {
  return (
    <>
      {uploads.items.map((each) => (
        <div class="upload" key={each.id}>
          <progress max={1} value={each.part} aria-label={each.name} />
          <span>{T.upload.saving(each.name, each.part)}</span>
          <button type="button" onClick={each.stop}>
            {T.list.stop}
          </button>
        </div>
      ))}
      {uploads.asked && (
        <Dialog
          key={uploads.asked.id}
          title={T.upload.exists(uploads.asked.key)}
          submit={T.upload.replace}
          isDangerous
          onSubmit={() => uploads.answer(true)}
          onClose={() => uploads.answer(false)}
        />
      )}
    </>
  );
}
