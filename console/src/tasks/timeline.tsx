// The life of a task, drawn: waits, attempts and how each ended.

import type { Task } from '../model';
import { duration, T, time } from '../texts';

interface Span {
  from: number;
  to: number;
  kind: string;
  label: string;
}

function spansOf(task: Task, now: number): Span[] {
  const at = (iso: string): number => new Date(iso).getTime();
  const spans: Span[] = [];
  let last = at(task.created_at);
  const wait = (until: number) => {
    if (until > last) spans.push({ from: last, to: until, kind: 'wait', label: T.tasks.waiting });
    last = Math.max(last, until);
  };
  for (const each of task.history) {
    if (each.started_at) wait(at(each.started_at));
    const to = at(each.ended_at);
    const why = [each.error_code, each.error_message].filter(Boolean).join(': ');
    spans.push({ from: each.started_at ? at(each.started_at) : last, to, kind: each.outcome, label: `${each.number}: ${each.outcome}${why ? ` — ${why}` : ''}` });
    last = Math.max(last, to);
  }
  if (task.status === 'running') {
    const from = Math.max(last, task.started_at ? at(task.started_at) : last);
    wait(from);
    spans.push({ from, to: Math.max(now, from), kind: 'running', label: T.states.running });
  } else if (task.status === 'queued') {
    wait(Math.max(now, task.due_at ? at(task.due_at) : 0));
  }
  return spans;
}

export function Timeline({ task }: { task: Task }) {
  const spans = spansOf(task, Date.now());
  if (!spans.length) return <p class="quiet">{time(task.created_at)}</p>;
  const from = spans[0]!.from;
  const whole = Math.max(1, Math.max(...spans.map((each) => each.to)) - from);
  return (
    <ol class="timeline">
      {spans.map((each, index) => (
        <li key={index}>
          <span class="bar">
            <span class={`span ${each.kind}`} style={{ left: `${((each.from - from) / whole) * 100}%`, width: `${((each.to - each.from) / whole) * 100}%` }} />
          </span>
          <span class="label">{each.label}</span>
          <small>{duration(new Date(each.from).toISOString(), new Date(each.to).toISOString())}</small>
        </li>
      ))}
    </ol>
  );
}
