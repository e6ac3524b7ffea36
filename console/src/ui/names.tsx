// The names of tables or queues, of which those of the app itself say so.

import { useEffect, useRef, useState } from 'preact/hooks';
import { json } from '../api';
import { useLoaded } from '../load';
import type { NamedResource, NamePage } from '../model';
import { usePoll } from '../poll';
import { T } from '../texts';
import { Trouble } from './notices';

interface Props {
  kind: 'tables' | 'queues';
  label: string;
  selected: string | undefined;
  linkTo: (name: string) => string;
  aside?: (each: NamedResource) => preact.ComponentChildren;
}

/** Whether it is known to be none of the app's own, which nobody changes from outside. */
export function useIsForeign(kind: 'tables' | 'queues', name: string): boolean {
  const { value } = useLoaded(
    (signal) => json<Record<string, NamedResource[]>>('GET', kind, { query: { prefix: name, limit: 1 }, signal }),
    [kind, name],
  );
  return !!value && !value[kind]!.some((each) => each.name === name && each.owner !== null);
}

/** Of queues it is also asked how long they are, which costs the store something for each. */
const PAGES = { tables: { limit: 1000 }, queues: { limit: 100, lengths: true } };

const page = (kind: Props['kind'], cursor: string | null, signal: AbortSignal) =>
  json<NamePage>('GET', kind, { query: { ...PAGES[kind], cursor }, signal });

export function Names({ kind, label, selected, linkTo, aside }: Props) {
  const [names, setNames] = useState<NamedResource[]>();
  const [error, setError] = useState<Error>();
  const [text, setText] = useState('');
  const [round, setRound] = useState(0);
  const at = useRef<string | null>(null);
  useEffect(() => {
    const control = new AbortController();
    const load = async () => {
      const found: NamedResource[] = [];
      let cursor: string | null = null;
      do {
        const next: NamePage = await page(kind, cursor, control.signal);
        found.push(...next[kind]!);
        cursor = next.cursor;
      } while (cursor);
      setError(undefined);
      setNames(found);
    };
    load().catch((problem: Error) => control.signal.aborted || setError(problem));
    return () => control.abort();
  }, [kind, round]);
  // However many there are: one page of them a turn.
  usePoll(async (signal) => {
    const from = at.current ?? '';
    const next = await page(kind, at.current, signal);
    at.current = next.cursor;
    const isOthers = ({ name }: NamedResource) => name <= from || (next.cursor !== null && name > next.cursor);
    setNames((before = []) => [...before.filter(isOthers), ...next[kind]!].sort((a, b) => (a.name < b.name ? -1 : 1)));
  }, kind === 'queues' && !!names && !error);
  const again = () => setRound((n) => n + 1);
  if (error) return <Trouble error={error} again={again} />;
  const wanted = text.toLowerCase();
  const shown = names?.filter((each) => each.name.toLowerCase().includes(wanted));
  return (
    <>
      <div class="tools">
        <input type="search" aria-label={T.names.filter} placeholder={T.names.filter} value={text} onInput={(event) => setText(event.currentTarget.value)} />
        <button type="button" onClick={again}>{T.reload}</button>
      </div>
      {!shown && <p class="quiet">{T.loading}</p>}
      {shown?.length === 0 && <p class="empty">{T.names.none}</p>}
      <nav aria-label={label} class="names">
        {shown?.map((each) => (
          <a key={each.name} class="entry named" href={linkTo(each.name)} aria-current={each.name === selected ? 'true' : undefined}>
            <span class="name">{each.name}</span>
            {each.owner && <span class="badge">{T.names.own(each.owner)}</span>}
            {aside?.(each)}
          </a>
        ))}
      </nav>
    </>
  );
}
