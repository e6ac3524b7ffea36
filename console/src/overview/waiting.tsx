// The queues of tasks: how much waits, and whether anybody works.

import { useEffect, useRef, useState } from 'preact/hooks';
import { json } from '../api';
import { useLoaded } from '../load';
import type { NamedResource, NamePage } from '../model';
import { usePoll } from '../poll';
import { link } from '../router';
import { ago, count, T } from '../texts';
import { Trouble } from '../ui/notices';

/** A task that nobody has begun for so long waits for somebody who looks. */
const LONG = 10 * 60_000;

/** The names of the queues of tasks, among however many others. */
async function namesOf(signal: AbortSignal): Promise<string[]> {
  const found: string[] = [];
  let cursor: string | null = null;
  do {
    const page: NamePage = await json('GET', 'queues', { query: { limit: 1000, cursor }, signal });
    found.push(...page.queues!.filter((each) => each.owner === 'tasks').map((each) => each.name));
    cursor = page.cursor;
  } while (cursor);
  return found;
}

async function measured(name: string, signal: AbortSignal): Promise<NamedResource[]> {
  const { queues } = await json<NamePage>('GET', 'queues', { query: { prefix: name, limit: 1, lengths: true }, signal });
  return queues!.filter((each) => each.name === name);
}

export function Waiting() {
  const loaded = useLoaded(namesOf, []);
  const [queues, setQueues] = useState<NamedResource[]>([]);
  const [error, setError] = useState<Error>();
  const turn = useRef(0);
  const look = async (name: string, signal: AbortSignal) => {
    let found: NamedResource[];
    try {
      found = await measured(name, signal);
    } catch (problem) {
      if (!signal.aborted) setError(problem as Error);
      return;
    }
    setError(undefined);
    setQueues((before) => [...before.filter((each) => each.name !== name), ...found].sort((a, b) => (a.name < b.name ? -1 : 1)));
  };
  useEffect(() => {
    const control = new AbortController();
    loaded.value?.forEach((name) => void look(name, control.signal));
    return () => control.abort();
  }, [loaded.value]);
  // One queue a turn.
  usePoll(async (signal) => {
    if (loaded.isLoading) return;
    const names = loaded.value ?? [];
    if (!names.length) return loaded.again();
    await look(names[(turn.current += 1) % names.length]!, signal);
  });
  if (loaded.error ?? error) return <Trouble error={(loaded.error ?? error)!} again={loaded.again} />;
  if (!queues.length) return <></>;
  return (
    <section aria-label={T.overview.waits}>
      <h2>{T.overview.waits}</h2>
      {queues.filter(({ oldest_at }) => oldest_at && Date.now() - new Date(oldest_at).getTime() > LONG).map(({ name, oldest_at }) => (
        <p class="banner" role="alert" key={name}>
          {name.endsWith('-poison') ? T.overview.poison(name) : T.overview.stuck(name, ago(oldest_at))}{' '}
          <a href={link('queues', { queue: name })}>{T.overview.look}</a> <code>{T.overview.command}</code>
        </p>
      ))}
      <dl class="facts">
        {queues.map(({ name, length, oldest_at }) => (
          <div key={name}>
            <dt><a href={link('queues', { queue: name })}>{name}</a></dt>
            <dd>{count(length ?? 0, 'message')}{oldest_at && ` · ${ago(oldest_at)}`}</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}
