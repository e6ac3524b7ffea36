// One conversation, read as a chat.

import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { ApiError, request } from '../api';
import { numberOf } from '../exact';
import { useLoaded } from '../load';
import type { ConversationRead, Entry } from '../model';
import { usePoll } from '../poll';
import { may, mayBelow } from '../rights';
import { T, time } from '../texts';
import { Dialog } from '../ui/dialog';
import { fail, tell, Trouble } from '../ui/notices';
import { Search } from '../ui/search';
import { Found } from './found';
import { Message } from './message';
import { download, read } from './reading';

const PAGE = 100;
/** So many messages are in the page at once, however long the conversation is. */
const KEPT = 400;

interface Props {
  id: string;
  /** The position to begin at; otherwise it is the end. */
  at: string | undefined;
  onChange: () => void;
  onOpen: (id: string, at?: number) => void;
  onClose: () => void;
}

/** Messages that follow each other, and whether there are others before or after them. */
interface Part {
  entries: Entry[];
  isFirst: boolean;
  isLast: boolean;
}

export function Chat({ id, at, onChange, onOpen, onClose }: Props) {
  const from = Number(at) || 0;
  const loaded = useLoaded(
    (signal) => read(id, from ? { after: Math.max(0, from - 1 - PAGE / 4), limit: PAGE } : { last: PAGE }, signal),
    [id, from],
  );
  const [part, setPart] = useState<Part>({ entries: [], isFirst: true, isLast: true });
  const [about, setAbout] = useState<ConversationRead['conversation']>();
  const [text, setText] = useState('');
  const [asked, ask] = useState<'fork' | 'delete'>();
  const list = useRef<HTMLOListElement>(null);
  /** What stays where it is when others come in above it. */
  const anchor = useRef<{ position: number; top: number }>(undefined);
  useEffect(() => {
    if (!loaded.value) return;
    const { entries, conversation } = loaded.value;
    const isLast = !from || entries.length < PAGE;
    setPart({ entries, isFirst: from ? from <= 1 + PAGE / 4 : entries.length < PAGE, isLast });
    setAbout(conversation);
    anchor.current = from ? { position: from, top: NaN } : undefined;
  }, [loaded.value]);
  const { entries, isFirst, isLast } = part;
  usePoll(async (signal) => {
    // From the last that was read, not from the last that there is: more may have come than fit an answer.
    const newer = await read(id, isLast ? { after: entries.at(-1)?.position ?? 0, limit: PAGE } : { last: 0 }, signal);
    setAbout(newer.conversation);
    if (isLast && newer.entries.length) setPart((before) => after(before, newer.entries));
  }, !!about);
  const element = (position: number) => list.current?.querySelector<HTMLElement>(`[data-position="${position}"]`);
  useLayoutEffect(() => {
    const kept = anchor.current;
    const found = kept && element(kept.position);
    if (!kept || !found) return;
    anchor.current = undefined;
    if (Number.isNaN(kept.top)) found.scrollIntoView({ block: 'center' });
    else found.closest('.detail')!.scrollTop += found.getBoundingClientRect().top - kept.top;
  }, [part]);
  const keep = (entry: Entry | undefined) => {
    const found = entry && element(entry.position);
    anchor.current = found ? { position: entry.position, top: found.getBoundingClientRect().top } : undefined;
  };
  const earlier = async () => {
    const found = entries.length ? (await read(id, { before: entries[0]!.position, last: PAGE })).entries : [];
    keep(entries[0]);
    setPart((before) => {
      const all = [...found.filter((each) => each.position < (before.entries[0]?.position ?? Infinity)), ...before.entries];
      return { entries: all.slice(0, KEPT), isFirst: found.length < PAGE, isLast: before.isLast && all.length <= KEPT };
    });
  };
  const later = async () => {
    const found = (await read(id, { after: entries.at(-1)?.position ?? 0, limit: PAGE })).entries;
    keep(entries.at(-1));
    setPart((before) => after(before, found));
  };
  if (loaded.error instanceof ApiError && loaded.error.status === 404) return <p class="empty">{T.conversations.gone}</p>;
  if (loaded.error) return <Trouble error={loaded.error} again={loaded.again} />;
  if (!about) return <p class="quiet">{T.loading}</p>;
  return (
    <>
      <div class="title">
        <h2>{about.topic ?? id}</h2>
        <button type="button" class="plain" aria-label={T.close} onClick={onClose}>×</button>
      </div>
      <p class="quiet">
        {id} · {T.conversations.count(about.count)} · {about.participants.join(', ')}
        {about.expires_at && ` · ${T.conversations.ends(time(about.expires_at))}`}
      </p>
      <div class="tools">
        <Search label={T.conversations.search} value={text} onChange={setText} />
        <button type="button" onClick={() => void download(id).catch(fail)}>{T.conversations.export}</button>
        {mayBelow('save', '') && <button type="button" onClick={() => ask('fork')}>{T.conversations.fork}</button>}
        {may('delete', id) && <button type="button" class="danger" onClick={() => ask('delete')}>{T.conversations.remove}</button>}
      </div>
      {text ? (
        <Found id={id} text={text} total={about.count} onOpen={(position) => { setText(''); onOpen(id, position); if (position === from) loaded.again(); }} />
      ) : (
        <>
          {!isFirst && <Further name={T.conversations.earlier} load={earlier} />}
          <ol class="chat" ref={list}>
            {entries.map((each) => <Message key={each.position} entry={each} />)}
          </ol>
          {!isLast && (
            <div class="tools">
              <Further name={T.conversations.later} load={later} />
              <button type="button" onClick={() => { onOpen(id); loaded.again(); }}>{T.conversations.newest}</button>
            </div>
          )}
        </>
      )}
      {asked === 'fork' && (
        <Fork
          id={id}
          onClose={() => ask(undefined)}
          onDone={(to) => {
            ask(undefined);
            tell(T.conversations.forked(to));
            onChange();
            onOpen(to);
          }}
        />
      )}
      {asked === 'delete' && (
        <Removal
          id={id}
          etag={about.etag}
          onClose={() => ask(undefined)}
          onDone={() => {
            tell(T.conversations.removed(id));
            onChange();
            onClose();
          }}
        />
      )}
    </>
  );
}

function after(before: Part, found: Entry[]): Part {
  const known = before.entries.at(-1)?.position ?? 0;
  const all = [...before.entries, ...found.filter((each) => each.position > known)];
  return {
    entries: all.slice(-KEPT),
    isFirst: before.isFirst && all.length <= KEPT,
    isLast: found.length < PAGE,
  };
}

/** More messages, by a press, or as soon as the user has scrolled there. */
function Further({ name, load }: { name: string; load: () => Promise<void> }) {
  const button = useRef<HTMLButtonElement>(null);
  const [isBusy, setBusy] = useState(false);
  const latest = useRef<() => void>(() => undefined);
  latest.current = () => {
    if (isBusy) return;
    setBusy(true);
    load().catch(fail).finally(() => setBusy(false));
  };
  useEffect(() => {
    // Only what comes into sight by scrolling: what is in sight from the beginning waits to be pressed.
    let isSeen = true;
    const watch = new IntersectionObserver(([seen]) => {
      if (seen!.isIntersecting && !isSeen) latest.current();
      isSeen = seen!.isIntersecting;
    });
    watch.observe(button.current!);
    return () => watch.disconnect();
  }, []);
  return <button ref={button} type="button" disabled={isBusy} onClick={() => latest.current()}>{name}</button>;
}

function Fork({ id, onClose, onDone }: { id: string; onClose: () => void; onDone: (to: string) => void }) {
  const [to, setTo] = useState(`${id}-fork`);
  const [until, setUntil] = useState('');
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState<string>();
  const run = async () => {
    setBusy(true);
    try {
      const last = numberOf(until, T.conversations.forkUntil, T.noNumber);
      await request('POST', 'conversation-edits', {
        query: { key: id },
        json: { do: 'fork', to, ...(last === undefined ? {} : { until: last }) },
      });
      onDone(to);
    } catch (problem) {
      setError((problem as Error).message);
    } finally {
      setBusy(false);
    }
  };
  return (
    <Dialog title={T.conversations.forkTitle(id)} submit={T.conversations.fork} isBusy={isBusy} error={error} onClose={onClose} onSubmit={() => void run()}>
      <label>
        {T.conversations.forkTo}
        <input value={to} onInput={(event) => setTo(event.currentTarget.value)} />
      </label>
      <label>
        {T.conversations.forkUntil}
        <input inputMode="numeric" value={until} onInput={(event) => setUntil(event.currentTarget.value)} />
      </label>
    </Dialog>
  );
}

function Removal({ id, etag, onClose, onDone }: { id: string; etag: string; onClose: () => void; onDone: () => void }) {
  const [error, setError] = useState<string>();
  // What the user has read so far, not what comes in while the question is open.
  const [read] = useState(etag);
  const run = async () => {
    try {
      await request('DELETE', 'conversations', { query: { key: id }, headers: { 'If-Match': `"${read}"` } });
      onDone();
    } catch (problem) {
      setError((problem as Error).message);
    }
  };
  return (
    <Dialog title={T.conversations.removeTitle(id)} submit={T.conversations.remove} isDangerous error={error} onClose={onClose} onSubmit={() => void run()} />
  );
}
