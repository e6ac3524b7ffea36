// How the app is: what needs a person first, then its parts, and how it has gone since the page was opened.

import { useRef, useState } from 'preact/hooks';
import { ApiError, json, request } from '../api';
import { useLoaded } from '../load';
import { STATES, type TaskCounts } from '../model';
import { useLive, usePoll } from '../poll';
import { mayUse, operates } from '../rights';
import { link } from '../router';
import { size, T } from '../texts';
import { RetryAll } from '../tasks/bulk';
import { Trouble } from '../ui/notices';
import { Chart } from './chart';
import { Stored } from './stored';
import { Waiting } from './waiting';
import { parse, quantiles, rate, sum, type Sample } from './metrics';

const KEPT = 600;

interface Quota {
  rule: string;
  prefix: string;
  bytes: number | null;
  objects: number | null;
  quota_bytes: number | null;
  quota_objects: number | null;
  is_high: boolean;
}

interface Ready {
  status: 'ready' | 'degraded';
  storage: string;
  tasks?: 'ready' | 'unavailable';
  fallback?: { answers: string; pending: number };
  quotas?: Quota[];
}

export function Overview() {
  return (
    <div class="overview">
      {operates.value && <Health />}
      {operates.value && <Waiting />}
      {mayUse('tasks') && <TaskCountsBox />}
      {operates.value && <Stored />}
      {operates.value && <Charts />}
    </div>
  );
}

function Health() {
  const { value, error, again } = useLive((signal) => json<Ready>('GET', 'health/ready', { signal }));
  return (
    <section aria-label={T.overview.health}>
      <h2>{T.overview.health}</h2>
      {error && (
        <div class="banner" role="alert">
          <Trouble error={error} again={again} />
          <code>{T.overview.command}</code>
        </div>
      )}
      {value && !error && (
        <>
          {value.status === 'ready' && value.tasks !== 'unavailable' && <p class="good">{T.overview.ready} ({value.storage})</p>}
          {value.status === 'degraded' && <p class="banner" role="alert">{T.overview.degraded} <code>{T.overview.command}</code></p>}
          {value.tasks === 'unavailable' && <p class="banner" role="alert">{T.overview.unavailable} <code>{T.overview.command}</code></p>}
          {!!value.fallback?.pending && <p class="banner">{T.overview.pending(value.fallback.pending)}</p>}
          {value.quotas?.filter((each) => each.is_high).map((each) => (
            <p class="banner" role="alert" key={each.rule}>
              {T.overview.quota(each.prefix)} <a href={link('objects', { prefix: each.prefix })}>{T.overview.look}</a>{' '}
              <code>{T.overview.quotaCommand(each.prefix)}</code>
            </p>
          ))}
          {!!value.quotas?.length && (
            <dl class="facts">
              {value.quotas.map((each) => (
                <div key={each.rule}>
                  <dt>{each.prefix || '/'}</dt>
                  <dd>
                    {T.overview.of(size(each.bytes), size(each.quota_bytes))}
                    {each.objects !== null && ` · ${T.overview.of(T.overview.objects(each.objects), each.quota_objects === null ? '' : String(each.quota_objects))}`}
                  </dd>
                </div>
              ))}
            </dl>
          )}
        </>
      )}
    </section>
  );
}

function TaskCountsBox() {
  const { value, error, again } = useLive((signal) => json<TaskCounts>('GET', 'tasks/counts', { query: { limit: 1000 }, signal }));
  if (error) return <Trouble error={error} again={again} />;
  const { dead = 0, failed = 0 } = value?.counts ?? {};
  return (
    <section aria-label={T.overview.tasks}>
      <h2>{T.overview.tasks}</h2>
      {dead > 0 && (
        <div class="banner" role="alert">
          {T.overview.dead(dead)} <a href={link('tasks', { status: 'dead' })}>{T.overview.look}</a>{' '}
          <RetryAll filters={{ status: 'dead' }} onDone={again} />
        </div>
      )}
      {failed > 0 && (
        <div class="banner">
          {T.overview.failed(failed)} <a href={link('tasks', { status: 'failed' })}>{T.overview.look}</a>{' '}
          <RetryAll filters={{ status: 'failed' }} onDone={again} />
        </div>
      )}
      <div class="tools">
        {STATES.map((state) => (
          <a key={state} class={`chip ${state}`} href={link('tasks', { status: state })}>
            {T.states[state]} {value && <b>{value.at_least.includes(state) ? `${value.counts[state] ?? 0}+` : (value.counts[state] ?? 0)}</b>}
          </a>
        ))}
      </div>
    </section>
  );
}

interface Row {
  at: number;
  operations: number | null;
  errors: number | null;
  latency: (number | null)[];
  hits: number | null;
  tasks: number | null;
}

const OPERATIONS = 'agent_storage_operations_total';
const HITS = 'agent_storage_cache_hits_total';
const MISSES = 'agent_storage_cache_misses_total';

function rowOf(before: Sample, now: Sample): Row {
  const [hits, misses] = [rate(before, now, HITS), rate(before, now, MISSES)];
  const tasks = rate(before, now, 'agent_task_ended_total');
  return {
    at: now.at / 1000,
    operations: rate(before, now, OPERATIONS),
    errors: rate(before, now, 'agent_storage_errors_total'),
    latency: quantiles(before, now, 'db_client_operation_duration_seconds', [0.5, 0.95, 0.99]).map((each) => each && each * 1000),
    hits: hits !== null && misses !== null && hits + misses > 0 ? (100 * hits) / (hits + misses) : null,
    tasks: tasks === null ? null : tasks * 60,
  };
}

function Charts() {
  const before = useRef<Sample>(undefined);
  const [rows, setRows] = useState<Row[]>([]);
  const [sample, setSample] = useState<Sample>();
  const [isOff, setOff] = useState(false);
  const [error, setError] = useState<Error>();
  const look = async (signal: AbortSignal) => {
    try {
      const text = await (await request('GET', 'metrics', { signal })).text();
      const now = parse(text, Date.now());
      if (before.current) {
        const row = rowOf(before.current, now);
        setRows((known) => [...known.slice(1 - KEPT), row]);
      }
      before.current = now;
      setSample(now);
      setError(undefined);
    } catch (problem) {
      if (signal.aborted) return;
      if (problem instanceof ApiError && problem.status === 501) setOff(true);
      else setError(problem as Error);
    }
  };
  useLoaded(look, []);
  usePoll(look, !isOff);
  if (isOff) return <p class="quiet">{T.overview.metricsOff}</p>;
  if (error) return <Trouble error={error} />;
  const times = rows.map((each) => each.at);
  const isCached = sample && (sum(sample, HITS) > 0 || sum(sample, MISSES) > 0);
  return (
    <>
      {rows.length === 0 && <p class="quiet">{T.overview.waiting}</p>}
      <div class="charts">
        <Chart title={T.overview.requests} names={['all']} times={times} series={[rows.map((each) => each.operations)]} />
        <Chart title={T.overview.latency} names={['50 %', '95 %', '99 %']} times={times} series={[0, 1, 2].map((at) => rows.map((each) => each.latency[at] ?? null))} />
        <Chart title={T.overview.errors} names={['all']} times={times} series={[rows.map((each) => each.errors)]} />
        <Chart title={T.overview.taskRate} names={['all']} times={times} series={[rows.map((each) => each.tasks)]} />
        {isCached && <Chart title={T.overview.cache} names={['all']} times={times} series={[rows.map((each) => each.hits)]} />}
      </div>
    </>
  );
}
