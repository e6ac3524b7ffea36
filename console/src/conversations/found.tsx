// The messages that have a text in them, of the whole conversation; each leads to where it was said.

import { useEffect, useState } from 'preact/hooks';
import { isParent } from '../exact';
import type { Entry } from '../model';
import { T } from '../texts';
import { Trouble } from '../ui/notices';
import { Message } from './message';
import { every } from './reading';

/** So many are shown; all are counted. */
const SHOWN = 200;

/** Whether a name or a value in it has the text, as people read it. */
function holds(value: unknown, wanted: string): boolean {
  if (isParent(value)) return Object.entries(value).some(([name, each]) => (!Array.isArray(value) && name.toLowerCase().includes(wanted)) || holds(each, wanted));
  return (typeof value === 'string' ? value : JSON.stringify(value)).toLowerCase().includes(wanted);
}

interface State {
  entries: Entry[];
  found: number;
  seen: number;
  isDone: boolean;
  error?: Error;
}

interface Props {
  id: string;
  text: string;
  total: number;
  onOpen: (position: number) => void;
}

export function Found({ id, text, total, onOpen }: Props) {
  const [state, setState] = useState<State>();
  const [round, setRound] = useState(0);
  useEffect(() => {
    const control = new AbortController();
    const wanted = text.toLowerCase();
    let now: State = { entries: [], found: 0, seen: 0, isDone: false };
    const show = (change: Partial<State>) => {
      now = { ...now, ...change };
      if (!control.signal.aborted) setState(now);
    };
    const search = async () => {
      for await (const page of every(id, control.signal)) {
        const hits = page.filter((each) => holds(each.message, wanted));
        show({ entries: [...now.entries, ...hits].slice(0, SHOWN), found: now.found + hits.length, seen: now.seen + page.length });
      }
      show({ isDone: true });
    };
    setState(now);
    search().catch((error: Error) => show({ error }));
    return () => control.abort();
  }, [id, text, round]);
  if (!state) return <></>;
  const { entries, found, seen, isDone, error } = state;
  return (
    <>
      <p class="quiet" role="status">
        {T.conversations.searched(found, isDone ? seen : total, isDone)} {found > SHOWN && T.conversations.firstOf(SHOWN)}
      </p>
      {error && <Trouble error={error} again={() => setRound((n) => n + 1)} />}
      <ol class="chat">
        {entries.map((each) => <Message key={each.position} entry={each} onOpen={onOpen} />)}
      </ol>
    </>
  );
}
