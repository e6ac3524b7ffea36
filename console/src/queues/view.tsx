// The queues: how long each is, and the messages that come next.

import { useState } from 'preact/hooks';
import { json, request } from '../api';
import { isParent, numberOf, parse } from '../exact';
import { useLoaded } from '../load';
import type { Message } from '../model';
import { isLong, JsonTree } from '../objects/json';
import { usePoll } from '../poll';
import { mayName } from '../rights';
import { go, link, place } from '../router';
import { ago, count, T, time } from '../texts';
import { Dialog } from '../ui/dialog';
import { Names, useIsForeign } from '../ui/names';
import { tell, Trouble } from '../ui/notices';

const path = (queue: string, rest = ''): string => `queues/${encodeURIComponent(queue)}${rest}`;

export function Queues() {
  const { queue } = place.value.query;
  return (
    <div class={queue ? 'split has-detail' : 'split'}>
      <section class="list" aria-label={T.queues.title}>
        <Names
          kind="queues"
          label={T.queues.title}
          selected={queue}
          linkTo={(name) => link('queues', { queue: name })}
          aside={({ length, oldest_at }) => (
            <span class="size" title={oldest_at ? T.queues.since(time(oldest_at)) : undefined}>
              {length === undefined ? '' : count(length, 'message')}
              {oldest_at && ` · ${ago(oldest_at)}`}
            </span>
          )}
        />
      </section>
      <section class="detail" aria-label={queue ?? T.queues.title}>
        {queue ? <Queue key={queue} queue={queue} /> : <p class="empty">{T.queues.pick}</p>}
      </section>
    </div>
  );
}

function Queue({ queue }: { queue: string }) {
  const load = async (signal: AbortSignal) => {
    const { messages } = await json<{ messages: Message[] }>('GET', path(queue, '/messages'), { query: { max_messages: 32 }, signal });
    const { length } = await json<{ length: number }>('GET', path(queue), { signal });
    return { messages, length };
  };
  const { value: loaded, error, again } = useLoaded(load, [queue]);
  const [newer, setNewer] = useState<Awaited<ReturnType<typeof load>>>();
  const isForeign = useIsForeign('queues', queue);
  const [isSending, setSending] = useState(false);
  const value = newer ?? loaded;
  // One request a turn: the messages tell most.
  usePoll(async (signal) => {
    const { messages } = await json<{ messages: Message[] }>('GET', path(queue, '/messages'), { query: { max_messages: 32 }, signal });
    setNewer((before) => ({ messages, length: before?.length ?? loaded?.length ?? 0 }));
  }, !!value);
  usePoll(async (signal) => {
    const { length } = await json<{ length: number }>('GET', path(queue), { signal });
    setNewer((before) => ({ messages: before?.messages ?? loaded?.messages ?? [], length }));
  }, !!value);
  const oldest = value?.messages.map((each) => each.inserted_at).sort()[0];
  return (
    <>
      <div class="title">
        <h2>{queue}</h2>
        <button type="button" class="plain" aria-label={T.close} onClick={() => go(link('queues'))}>×</button>
      </div>
      {queue.endsWith('-poison') && (
        <p class="quiet">
          {T.queues.dead} <a href={link('tasks', { status: 'dead' })}>{T.queues.showDead}</a>
        </p>
      )}
      <div class="tools">
        {isForeign && mayName('queues', queue) && <button type="button" onClick={() => setSending(true)}>{T.queues.send}</button>}
      </div>
      {error && <Trouble error={error} again={again} />}
      {value && (
        <>
          <dl class="facts">
            <div><dt>{T.queues.length}</dt><dd>{value.length}</dd></div>
            {oldest && <div><dt>{T.queues.oldest}</dt><dd>{ago(oldest)} ({time(oldest)})</dd></div>}
          </dl>
          <p class="quiet">{value.messages.length ? T.queues.peeked : T.queues.empty}</p>
          <ul class="messages">
            {value.messages.map((each) => (
              <li key={each.id}>
                <small>{each.id} · {ago(each.inserted_at)} · {T.queues.received(each.dequeue_count)}</small>
                <Body message={each} />
              </li>
            ))}
          </ul>
        </>
      )}
      {isSending && (
        <Send
          queue={queue}
          onClose={() => setSending(false)}
          onDone={() => {
            setSending(false);
            setNewer(undefined);
            again();
          }}
        />
      )}
    </>
  );
}

function Body({ message }: { message: Message }) {
  if (!message.encoding) {
    try {
      const value = parse(message.body);
      if (isParent(value)) return <JsonTree value={value} hasSearch={isLong(value)} />;
    } catch {
      // Plain text.
    }
  }
  return <pre>{message.body}</pre>;
}

function Send({ queue, onClose, onDone }: { queue: string; onClose: () => void; onDone: () => void }) {
  const [body, setBody] = useState('');
  const [ttl, setTtl] = useState('');
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState<string>();
  const send = async () => {
    setError(undefined);
    setBusy(true);
    try {
      const seconds = numberOf(ttl, T.queues.ttl, T.noNumber);
      await request('POST', path(queue, '/messages'), { json: { body, ...(seconds === undefined ? {} : { ttl_seconds: seconds }) } });
      tell(T.queues.sent);
      onDone();
    } catch (problem) {
      setError((problem as Error).message);
    } finally {
      setBusy(false);
    }
  };
  return (
    <Dialog title={`${T.queues.send}: ${queue}`} submit={T.queues.send} isBusy={isBusy} isChanged={!!body} error={error} onClose={onClose} onSubmit={() => void send()}>
      <label>
        {T.queues.body}
        <textarea rows={6} value={body} onInput={(event) => setBody(event.currentTarget.value)} />
      </label>
      <label>
        {T.queues.ttl}
        <input inputMode="decimal" value={ttl} onInput={(event) => setTtl(event.currentTarget.value)} />
      </label>
    </Dialog>
  );
}
