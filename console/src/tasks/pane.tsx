// One task: how it went, what it was given and what it gave, and what can be done about it.

import { useEffect, useState } from 'preact/hooks';
import { ApiError, json, request } from '../api';
import { isParent } from '../exact';
import { useLoaded } from '../load';
import type { Task, TaskPage } from '../model';
import { usePoll } from '../poll';
import { isLong, JsonTree } from '../objects/json';
import { go, link, place } from '../router';
import { duration, T, time } from '../texts';
import { fail, tell, Trouble } from '../ui/notices';
import { Submit } from './submit';
import { Timeline } from './timeline';

interface Props {
  id: string;
  onChange: () => void;
  onOpen: (id: string) => void;
  onClose: () => void;
}

const isFinal = (task: Task): boolean => !['queued', 'running'].includes(task.status);

export function TaskPane({ id, onChange, onOpen, onClose }: Props) {
  const loaded = useLoaded((signal) => json<Task>('GET', `tasks/${encodeURIComponent(id)}`, { signal }), [id]);
  const [newer, setNewer] = useState<Task>();
  const isEditing = !!place.value.query.edit;
  const setEditing = (isOn: boolean) => go(link('tasks', { ...place.value.query, edit: isOn ? '1' : undefined }));
  useEffect(() => setNewer(undefined), [loaded.value]);
  const task = newer ?? loaded.value;
  usePoll(
    async (signal) => setNewer(await json<Task>('GET', `tasks/${encodeURIComponent(id)}`, { signal })),
    !!task && !isFinal(task),
  );
  const act = async (method: string, path: string, done: string) => {
    // A running task changes all the time, and is to stop whatever it says by now.
    const isAsShown = task && path !== '/cancel';
    try {
      await request(method, `tasks/${encodeURIComponent(id)}${path}`, isAsShown ? { headers: { 'If-Match': `"${task.etag}"` } } : {});
      tell(done);
      onChange();
      if (method === 'DELETE') onClose();
      else loaded.again();
    } catch (problem) {
      fail(problem);
      loaded.again();
    }
  };
  if (task && isEditing)
    return (
      <Submit
        like={task}
        onClose={() => setEditing(false)}
        onDone={(made) => {
          onChange();
          onOpen(made);
        }}
      />
    );
  const isGone = loaded.error instanceof ApiError && loaded.error.status === 404;
  return (
    <>
      <div class="title">
        <h2>{task?.action ?? id}</h2>
        <button type="button" class="plain" aria-label={T.close} onClick={onClose}>×</button>
      </div>
      {isGone ? <p class="empty">{T.tasks.gone}</p> : loaded.error && <Trouble error={loaded.error} again={loaded.again} />}
      {!task && !loaded.error && <p class="quiet">{T.loading}</p>}
      {task && (
        <>
          <p>
            <span class={`chip ${task.status}`}>{T.states[task.status]}</span> <code>{task.task_id}</code>
          </p>
          {task.cancel_requested && !isFinal(task) && <p class="quiet">{T.tasks.stopping}</p>}
          <div class="tools">
            {!isFinal(task) && <button type="button" class="danger" onClick={() => void act('POST', '/cancel', T.tasks.cancelled)}>{T.tasks.cancel}</button>}
            {['failed', 'dead', 'cancelled'].includes(task.status) && (
              <button type="button" class="primary" onClick={() => void act('POST', '/requeue', T.tasks.retried)}>{T.tasks.retry}</button>
            )}
            {!task.omitted?.payload && <button type="button" onClick={() => setEditing(true)}>{T.tasks.editAndRetry}</button>}
            {isFinal(task) && <button type="button" class="danger" onClick={() => void act('DELETE', '', T.tasks.removed)}>{T.tasks.remove}</button>}
          </div>
          {task.error && (
            <section>
              <h3>{T.tasks.error}</h3>
              <p class="error"><b>{task.error.code}</b>: {task.error.message}</p>
              {task.error.traceback && (
                <details>
                  <summary>{T.tasks.traceback}</summary>
                  <pre>{task.error.traceback}</pre>
                </details>
              )}
            </section>
          )}
          {task.progress !== null && task.progress !== undefined && <Content title={T.tasks.progress} value={task.progress} />}
          <h3>{T.tasks.timeline}</h3>
          <Timeline task={task} />
          {task.children && <Children task={task} />}
          <Content title={T.tasks.payload} value={task.payload} omitted={task.omitted?.payload} />
          {task.status === 'succeeded' && <Content title={T.tasks.result} value={task.result} omitted={task.omitted?.result} />}
          {task.raw_message !== undefined && (
            <section>
              <h3>{T.tasks.raw}</h3>
              <pre>{readable(task.raw_message)}</pre>
            </section>
          )}
          <h3>{T.tasks.facts}</h3>
          <Facts task={task} />
        </>
      )}
    </>
  );
}

function Content({ title, value, omitted }: { title: string; value: unknown; omitted?: string | undefined }) {
  return (
    <section>
      <h3>{title}</h3>
      {omitted ? <p class="quiet">{T.tasks.omitted}: {omitted}</p> : isParent(value) ? <JsonTree value={value} hasSearch={isLong(value)} /> : <pre>{JSON.stringify(value) ?? ''}</pre>}
    </section>
  );
}

/** The platform's queues carry base64, which people do not read. */
function readable(message: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(Uint8Array.from(atob(message), (sign) => sign.charCodeAt(0)));
  } catch {
    return message;
  }
}

function Facts({ task }: { task: Task }) {
  const facts: [string, preact.ComponentChildren][] = [
    [T.tasks.agent, <a href={link('tasks', { agent_id: task.agent_id })}>{task.agent_id}</a>],
    [T.tasks.created, time(task.created_at)],
    [T.tasks.due, time(task.due_at)],
    [T.tasks.took, duration(task.started_at, task.finished_at)],
    [T.tasks.attempts, task.attempts],
    [T.tasks.priority, task.priority],
    [T.tasks.parent, task.parent_id && <a href={link('tasks', { task: task.parent_id })}>{task.parent_id}</a>],
    [T.tasks.correlation, task.correlation_id && <a href={link('tasks', { correlation_id: task.correlation_id })}>{task.correlation_id}</a>],
    [T.tasks.key, task.idempotency_key],
    [T.tasks.submitter, task.submitter],
  ];
  return (
    <dl class="facts">
      {facts.filter(([, value]) => value !== undefined && value !== null && value !== '').map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** As a tree: each that has children of its own opens on demand. */
function Children({ task }: { task: Task }) {
  const { total, ended, failed } = task.children!;
  const [isOpen, setOpen] = useState(false);
  return (
    <details open={isOpen} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        {T.tasks.children}: {T.tasks.childrenOf(total, ended, failed)}
      </summary>
      {isOpen && <ChildList id={task.task_id} />}
    </details>
  );
}

function ChildList({ id }: { id: string }) {
  const [cursor, setCursor] = useState<string | null>(null);
  const [children, setChildren] = useState<Task[]>([]);
  const { value, error, again } = useLoaded(
    (signal) => json<TaskPage>('GET', 'tasks', { query: { parent_id: id, limit: 200, cursor }, signal }),
    [id, cursor],
  );
  useEffect(() => {
    if (value) setChildren((before) => [...before, ...value.tasks.filter((each) => !before.some((known) => known.task_id === each.task_id))]);
  }, [value]);
  if (error) return <Trouble error={error} again={again} />;
  return (
    <ul class="tree">
      {children.map((each) => (
        <li key={each.task_id}>
          <a href={link('tasks', { task: each.task_id })}>
            <span class={`chip ${each.status}`}>{T.states[each.status]}</span> {each.action} <small>{each.task_id}</small>
          </a>
          {each.children && <Children task={each} />}
        </li>
      ))}
      {value?.cursor && <li><button type="button" onClick={() => setCursor(value.cursor)}>{T.tables.more}</button></li>}
    </ul>
  );
}
