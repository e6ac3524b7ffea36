// What can be done to everything below a prefix; what it would do is counted first.

import { useEffect, useRef, useState } from 'preact/hooks';
import { json } from '../api';
import type { PrefixResult } from '../model';
import { may, mayBelow } from '../rights';
import { T } from '../texts';
import { Dialog } from '../ui/dialog';
import { tell } from '../ui/notices';

type Work = 'copy' | 'move' | 'delete';
/** Of so many objects it is shown why they cannot be changed; all are counted. */
const REASONS = 5;

export function FolderActions({ prefix, onDone }: { prefix: string; onDone: () => void }) {
  const [work, setWork] = useState<Work>();
  const mayCopy = may('load', prefix) && may('list', prefix) && mayBelow('save', '');
  return (
    <>
      {mayCopy && <button type="button" onClick={() => setWork('copy')}>{T.folder.copy}</button>}
      {mayCopy && may('delete', prefix) && <button type="button" onClick={() => setWork('move')}>{T.folder.move}</button>}
      {may('list', prefix) && may('delete', prefix) && <button type="button" class="danger" onClick={() => setWork('delete')}>{T.folder.remove}</button>}
      {work && (
        <FolderDialog
          work={work}
          prefix={prefix}
          onClose={(isDone) => {
            setWork(undefined);
            if (isDone) onDone();
          }}
        />
      )}
    </>
  );
}

async function run(work: Work, prefix: string, to: string, isDry: boolean, isStopped: () => boolean): Promise<PrefixResult> {
  const total: PrefixResult = { done: 0, skipped: 0, failures: 0, failed: [], is_complete: false, cursor: null };
  do {
    const part: PrefixResult = await json('POST', `prefixes/${work}`, {
      json: { prefix, ...(work === 'delete' ? {} : { to }), dry_run: isDry, ...(total.cursor ? { cursor: total.cursor } : {}) },
    });
    total.done += part.done;
    total.skipped += part.skipped;
    total.failures += part.failures;
    total.failed.push(...part.failed);
    total.is_complete = part.is_complete;
    if (part.problem) throw new Error([total.done && !isDry && T.folder.did(total.done, total.failures), part.problem.detail, part.remedy].filter(Boolean).join('; '));
    total.cursor = part.cursor;
  } while (!total.is_complete && total.cursor && !isStopped());
  return total;
}

function FolderDialog({ work, prefix, onClose }: { work: Work; prefix: string; onClose: (isDone: boolean) => void }) {
  const [to, setTo] = useState(prefix);
  const [counted, setCounted] = useState<PrefixResult>();
  const [error, setError] = useState<string>();
  const [isBusy, setBusy] = useState(false);
  /** Who closes the dialog wants no more to be done. */
  const isClosed = useRef(false);
  /** Whether there may be less, or more, than the list shows. */
  const isBegun = useRef(false);
  useEffect(() => () => { isClosed.current = true; }, []);
  const folder = to && !to.endsWith('/') ? `${to}/` : to;
  const title = { copy: T.folder.copy, move: T.folder.move, delete: T.folder.remove }[work];
  const attempt = async (isDry: boolean) => {
    setBusy(true);
    setError(undefined);
    isBegun.current ||= !isDry;
    try {
      const result = await run(work, prefix, folder, isDry, () => isClosed.current);
      if (isDry) setCounted(result);
      else {
        const first = result.failed[0];
        const why = first ? ` ${first.key}: ${first.problem.detail}` : '';
        tell(`${T.folder.did(result.done, result.failures)}${why}${result.is_complete ? '' : ` ${T.folder.stopped}`}`, { isError: result.failures > 0 });
        onClose(true);
      }
    } catch (problem) {
      setError((problem as Error).message);
    } finally {
      setBusy(false);
    }
  };
  return (
    <Dialog
      title={`${title}: ${prefix}`}
      submit={counted ? T.folder.go[work] : T.folder.dryRun}
      isDangerous={!!counted && work === 'delete'}
      isBusy={isBusy}
      error={error}
      onClose={() => onClose(isBegun.current)}
      onSubmit={() => void attempt(!counted)}
    >
      {work !== 'delete' && (
        <label>
          {T.folder.target}
          <input
            value={to}
            disabled={isBusy}
            onInput={(event) => {
              setTo(event.currentTarget.value);
              setCounted(undefined);
            }}
          />
        </label>
      )}
      {counted && (
        <p>
          {T.folder.would(counted.done, counted.skipped)} {T.folder.warn[work]}
        </p>
      )}
      {!!counted?.failures && (
        <div class="error" role="alert">
          {T.folder.wouldFail(counted.failures)}
          <ul>{counted.failed.slice(0, REASONS).map((each) => <li key={each.key}>{each.key}: {each.problem.detail}</li>)}</ul>
        </div>
      )}
    </Dialog>
  );
}
