// Many tasks at once, by the filters that are set; how many it would be is counted first.

import { useEffect, useRef, useState } from 'preact/hooks';
import { json } from '../api';
import type { ChangedTasks } from '../model';
import { T } from '../texts';
import { Dialog } from '../ui/dialog';
import { tell } from '../ui/notices';
import type { Filters } from './view';

type Work = 'cancel' | 'requeue';

/** What mends what a filter has found; with it, as with all of them, what would be changed is counted first. */
export function RetryAll({ filters, onDone }: { filters: Filters; onDone: () => void }) {
  const [isOpen, setOpen] = useState(false);
  return (
    <>
      <button type="button" onClick={() => setOpen(true)}>{T.tasks.bulkRetry}</button>
      {isOpen && (
        <BulkDialog
          work="requeue"
          filters={filters}
          onClose={(isDone) => {
            setOpen(false);
            if (isDone) onDone();
          }}
        />
      )}
    </>
  );
}

export function Bulk({ filters, onDone }: { filters: Filters; onDone: () => void }) {
  const [work, setWork] = useState<Work>();
  const isNarrow = Object.keys(filters).length > 0;
  return (
    <>
      <button type="button" disabled={!isNarrow} title={isNarrow ? '' : T.tasks.narrow} onClick={() => setWork('requeue')}>{T.tasks.bulkRetry}</button>
      <button type="button" class="danger" disabled={!isNarrow} title={isNarrow ? '' : T.tasks.narrow} onClick={() => setWork('cancel')}>{T.tasks.bulkCancel}</button>
      {work && (
        <BulkDialog
          work={work}
          filters={filters}
          onClose={(isDone) => {
            setWork(undefined);
            if (isDone) onDone();
          }}
        />
      )}
    </>
  );
}

function BulkDialog({ work, filters, onClose }: { work: Work; filters: Filters; onClose: (isDone: boolean) => void }) {
  const [counted, setCounted] = useState<{ n: number; isMore: boolean }>();
  const [error, setError] = useState<string>();
  const [isBusy, setBusy] = useState(false);
  const ask = (isDry: boolean, cursor: string | null) => {
    const { status, ...others } = filters;
    const selection = { ...others, ...(status ? { status: status.split(',') } : {}), limit: 1000, dry_run: isDry, ...(cursor ? { cursor } : {}) };
    return json<ChangedTasks>('POST', `tasks/${work}`, { json: selection });
  };
  /** Who closes the dialog wants no more to be done. */
  const isClosed = useRef(false);
  useEffect(() => () => { isClosed.current = true; }, []);
  const attempt = async () => {
    setBusy(true);
    setError(undefined);
    try {
      if (!counted) {
        const found = await ask(true, null);
        setCounted({ n: found.tasks.length, isMore: found.cursor !== null });
        return;
      }
      let [done, failures, cursor]: [number, number, string | null] = [0, 0, null];
      let first: ChangedTasks['failed'][number] | undefined;
      do {
        const part: ChangedTasks = await ask(false, cursor);
        done += part.tasks.length;
        failures += part.failed.length;
        first ??= part.failed[0];
        cursor = part.cursor;
      } while (cursor && !isClosed.current);
      tell([T.tasks.bulkDone(done, failures), first?.problem && `${first.task_id}: ${first.problem.detail}`].filter(Boolean).join(' '), { isError: failures > 0 });
      onClose(true);
    } catch (problem) {
      setError((problem as Error).message);
    } finally {
      setBusy(false);
    }
  };
  const title = work === 'cancel' ? T.tasks.bulkCancel : T.tasks.bulkRetry;
  return (
    <Dialog
      title={title}
      submit={counted ? title : T.tasks.countFirst}
      isDangerous={!!counted && work === 'cancel'}
      isBusy={isBusy}
      error={error}
      onClose={() => onClose(false)}
      onSubmit={() => void attempt()}
    >
      <ul>
        {Object.entries(filters).map(([name, value]) => <li key={name}>{name}: {value}</li>)}
      </ul>
      {counted && <p>{T.tasks.bulk(counted.n, counted.isMore)}</p>}
    </Dialog>
  );
}
