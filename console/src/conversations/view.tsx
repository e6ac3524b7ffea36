// The conversations, the newest first; and beside them the one that is chosen, as a chat.

import { useEffect, useRef, useState } from 'preact/hooks';
import { json } from '../api';
import type { Conversation } from '../model';
import { go, link, place } from '../router';
import { ago, T, time } from '../texts';
import { Trouble } from '../ui/notices';
import { focusContent } from '../ui/dialog';
import { Search } from '../ui/search';
import { Entry, Virtual } from '../ui/virtual';
import { Chat } from './chat';

const FILTERS = ['participant', 'topic', 'prefix'] as const;
const PAGE = 200;

export function Conversations() {
  const { query } = place.value;
  const filters = Object.fromEntries(FILTERS.map((name) => [name, query[name] ?? '']));
  const told = JSON.stringify(filters);
  const [found, setFound] = useState<Conversation[]>([]);
  const [cursor, setCursor] = useState<string | null>(null);
  const [error, setError] = useState<Error>();
  const [isLoading, setLoading] = useState(true);
  const [marked, setMarked] = useState(-1);
  const [round, setRound] = useState(0);
  const control = useRef<AbortController>(undefined);
  const load = async (from: string | null, signal?: AbortSignal) => {
    setLoading(true);
    setError(undefined);
    try {
      const given = Object.fromEntries(Object.entries(filters).filter(([, value]) => value));
      const page = await json<{ conversations: Conversation[]; cursor: string | null }>('GET', 'conversations', {
        query: { ...given, limit: PAGE, cursor: from },
        ...(signal ? { signal } : {}),
      });
      if (signal?.aborted) return;
      setFound((before) => (from ? [...before, ...page.conversations] : page.conversations));
      setCursor(page.cursor);
    } catch (problem) {
      if (!signal?.aborted) setError(problem as Error);
    } finally {
      if (!signal?.aborted) setLoading(false);
    }
  };
  useEffect(() => {
    const made = new AbortController();
    control.current = made;
    setMarked(-1);
    void load(null, made.signal);
    return () => made.abort();
  }, [told, round]);
  const again = () => setRound((n) => n + 1);
  const to = (id?: string, at?: number) => link('conversations', { ...filters, id, at: at ? String(at) : undefined });
  const selected = found.findIndex((each) => each.id === query.id);
  useEffect(() => setMarked(selected), [selected]);
  const labels = { participant: T.conversations.participant, topic: T.conversations.topic, prefix: T.conversations.prefix };
  return (
    <div class={query.id ? 'split has-detail' : 'split'}>
      <section class="list" aria-label={T.conversations.title}>
        <div class="tools">
          {FILTERS.map((name) => (
            <Search
              key={name}
              label={labels[name]}
              value={filters[name]!}
              onChange={(value) => go(link('conversations', { ...query, [name]: value }), { replace: true })}
            />
          ))}
          <button type="button" onClick={again}>{T.reload}</button>
        </div>
        {error ? (
          <Trouble error={error} again={again} />
        ) : (
          <>
            <p class="quiet count">{T.list.shown(found.length, cursor === null)}</p>
            <Virtual
              count={found.length}
              label={T.conversations.title}
              keyOf={(index) => found[index]!.id}
              row={(index) => <Row conversation={found[index]!} href={to(found[index]!.id)} />}
              more={cursor && !isLoading ? () => void load(cursor, control.current?.signal) : undefined}
              selected={marked}
              onMove={setMarked}
              onOpen={(index) => go(to(found[index]!.id))}
            />
            {!found.length && !isLoading && <p class="empty">{T.conversations.none}</p>}
          </>
        )}
      </section>
      <section class="detail" aria-label={query.id ?? T.conversations.title}>
        {query.id ? (
          <Chat key={query.id} id={query.id} at={query.at} onChange={again} onOpen={(id, at) => go(to(id, at))} onClose={() => { go(to()); setTimeout(focusContent); }} />
        ) : (
          <p class="empty">{T.conversations.pick}</p>
        )}
      </section>
    </div>
  );
}

function Row({ conversation, href }: { conversation: Conversation; href: string }) {
  const { id, topic, participants, count, updated_at } = conversation;
  return (
    <Entry kind="talk" href={href} title={id}>
      <span class="name">{topic ? `${topic} — ${id}` : id}</span>
      <span class="who">{participants.join(', ')}</span>
      <span class="size">{T.conversations.count(count)}</span>
      <span class="when" title={time(updated_at)}>{ago(updated_at)}</span>
    </Entry>
  );
}
