// The tasks, newest first, as they change; and beside them the one that is chosen.

import { useEffect, useRef, useState } from 'preact/hooks';
import { json } from '../api';
import { STATES, type State, type Task, type TaskCounts, type TaskPage } from '../model';
import { usePoll } from '../poll';
import { go, link, place } from '../router';
import { ago, count, duration, T, time } from '../texts';
import { Trouble } from '../ui/notices';
import { focusContent } from '../ui/dialog';
import { Search } from '../ui/search';
import { Entry, Virtual } from '../ui/virtual';
import { Bulk } from './bulk';
import { Histogram } from './histogram';
import { TaskPane } from './pane';
import { Submit } from './submit';
import { SavedViews } from './views';

const PAGE = 200;
export const FILTERS = ['status', 'action', 'agent_id', 'parent_id', 'correlation_id'] as const;
export type Filters = Partial<Record<(typeof FILTERS)[number], string>>;

export const filtersOf = (query: Record<string, string>): Filters =>
  Object.fromEntries(FILTERS.flatMap((name) => (query[name] ? [[name, query[name]]] : [])));

export function Tasks() {
  const { query } = place.value;
  const filters = filtersOf(query);
  const told = JSON.stringify(filters);
  /** What is asked for with other filters comes too late. */
  const latest = useRef(told);
  latest.current = told;
  const isLate = () => latest.current !== told;
  /** Whether the user has asked for more than the newest: those that only new ones have pushed down are let go. */
  const isScrolled = useRef(false);
  const [tasks, setTasks] = useState<Task[]>([]);
  const [cursor, setCursor] = useState<string | null>(null);
  const [counts, setCounts] = useState<TaskCounts>();
  const [error, setError] = useState<Error>();
  const [isLoading, setLoading] = useState(true);
  const isSubmitting = !!query.submit;
  const [marked, setMarked] = useState(-1);

  const page = (signal?: AbortSignal, from?: string | null) =>
    json<TaskPage>('GET', 'tasks', { query: { ...filters, limit: PAGE, cursor: from }, ...(signal ? { signal } : {}) });
  const { status: _, ...others } = filters;
  const tally = async (signal?: AbortSignal) => {
    const found = await json<TaskCounts>('GET', 'tasks/counts', { query: { ...others, limit: 1000 }, ...(signal ? { signal } : {}) });
    if (!isLate()) setCounts(found);
  };
  const refresh = async (signal?: AbortSignal) => {
    const found = await page(signal);
    if (signal?.aborted || isLate()) return;
    setError(undefined);
    const known = new Map(found.tasks.map((each) => [each.task_id, each]));
    const oldest = found.tasks.at(-1)?.created_at ?? '';
    setTasks((before) => {
      // Of those that were scrolled to, further down, the earlier state stays.
      const below = found.cursor && isScrolled.current ? before.filter((each) => !known.has(each.task_id) && each.created_at <= oldest) : [];
      return [...found.tasks, ...below];
    });
    setCursor((before) => (isScrolled.current ? (before ?? found.cursor) : found.cursor));
  };
  const begin = (signal?: AbortSignal) => {
    setLoading(true);
    refresh(signal)
      .catch((problem: Error) => signal?.aborted || isLate() || setError(problem))
      .finally(() => signal?.aborted || isLate() || setLoading(false));
    tally(signal).catch(() => undefined);
  };
  useEffect(() => {
    const control = new AbortController();
    isScrolled.current = false;
    setTasks([]);
    setCursor(null);
    setMarked(-1);
    begin(control.signal);
    return () => control.abort();
  }, [told]);
  usePoll(refresh, !error);
  usePoll(tally, !error);

  const more = () => {
    if (isLoading || !cursor) return;
    isScrolled.current = true;
    setLoading(true);
    page(undefined, cursor)
      .then((found) => {
        if (isLate()) return;
        setTasks((before) => {
          const known = new Set(before.map((each) => each.task_id));
          return [...before, ...found.tasks.filter((each) => !known.has(each.task_id))];
        });
        setCursor(found.cursor);
      })
      .catch((problem: Error) => isLate() || setError(problem))
      .finally(() => isLate() || setLoading(false));
  };
  const toggled = (state: State): string => {
    const chosen = new Set(filters.status?.split(',') ?? []);
    if (!chosen.delete(state)) chosen.add(state);
    return link('tasks', { ...query, status: [...chosen].join(',') });
  };
  const selected = tasks.findIndex((each) => each.task_id === query.task);
  useEffect(() => setMarked(selected), [query.task, selected]);
  const to = (id: string) => link('tasks', { ...filters, task: id });

  return (
    <div class={query.task || isSubmitting ? 'split has-detail' : 'split'}>
      <section class="list" aria-label={T.tasks.title}>
        <div class="tools" role="group" aria-label={T.tasks.status}>
          {STATES.map((state) => {
            const n = counts?.counts[state] ?? 0;
            return (
              <a key={state} class={`chip ${state}`} href={toggled(state)} onKeyDown={pressed} role="button" aria-pressed={!!filters.status?.split(',').includes(state)}>
                {T.states[state]} {counts && <b>{counts.at_least.includes(state) ? `${n}+` : n}</b>}
              </a>
            );
          })}
        </div>
        <div class="tools">
          {(['action', 'agent_id', 'parent_id', 'correlation_id'] as const).map((name) => (
            <Search
              key={name}
              label={{ action: T.tasks.action, agent_id: T.tasks.agent, parent_id: T.tasks.parent, correlation_id: T.tasks.correlation }[name]}
              value={filters[name] ?? ''}
              onChange={(value) => go(link('tasks', { ...query, [name]: value }), { replace: true })}
            />
          ))}
        </div>
        <div class="tools">
          <button type="button" class="primary" onClick={() => go(link('tasks', { ...filters, submit: '*' }))}>{T.tasks.submit}</button>
          <SavedViews filters={filters} />
          <Bulk filters={filters} onDone={() => begin()} />
        </div>
        {error ? (
          <Trouble error={error} again={() => begin()} />
        ) : (
          <>
            <p class="quiet count">{T.list.shown(tasks.length, cursor === null)}</p>
            <Histogram tasks={tasks} />
            <Virtual
              count={tasks.length}
              label={T.tasks.title}
              keyOf={(index) => tasks[index]!.task_id}
              row={(index) => <Row task={tasks[index]!} href={to(tasks[index]!.task_id)} />}
              more={cursor ? more : undefined}
              selected={marked}
              onMove={setMarked}
              onOpen={(index) => go(to(tasks[index]!.task_id))}
            />
            {!tasks.length && !isLoading && <p class="empty">{T.tasks.none}</p>}
          </>
        )}
      </section>
      <section class="detail" aria-label={T.tasks.facts}>
        {isSubmitting ? (
          <Submit
            action={query.submit!}
            onAction={(name) => go(link('tasks', { ...filters, submit: name }), { replace: true })}
            onClose={() => go(link('tasks', filters))}
            onDone={(id) => {
              begin();
              go(to(id));
            }}
          />
        ) : query.task ? (
          <TaskPane key={query.task} id={query.task} onChange={() => begin()} onOpen={(id) => go(to(id))} onClose={() => { go(link('tasks', filters)); setTimeout(focusContent); }} />
        ) : (
          <p class="empty">{T.tasks.pick}</p>
        )}
      </section>
    </div>
  );
}

/** A button is pressed with the space bar too. */
function pressed(event: KeyboardEvent & { currentTarget: HTMLAnchorElement }): void {
  if (event.key !== ' ') return;
  event.preventDefault();
  event.currentTarget.click();
}

function Row({ task, href }: { task: Task; href: string }) {
  return (
    <Entry kind="task" href={href} title={task.task_id}>
      <span class={`chip ${task.status}`}>{T.states[task.status]}</span>
      <span class="name">{task.action}</span>
      <span class="who">{task.agent_id}</span>
      <span class="size" title={count(task.attempts, 'attempt')}>
        {duration(task.started_at, task.finished_at)}
      </span>
      <span class="when" title={time(task.created_at)}>{ago(task.created_at)}</span>
    </Entry>
  );
}
