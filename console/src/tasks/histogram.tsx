// When the tasks that are listed were created, and in which state each is by now.

import { useMemo } from 'preact/hooks';
import { STATES, type State, type Task } from '../model';
import { T, time } from '../texts';

const SLOTS = 60;
const HEIGHT = 40;

type Counts = Partial<Record<State, number>>;

const told = (counts: Counts): string =>
  STATES.filter((state) => counts[state])
    .map((state) => `${T.states[state]} ${counts[state]}`)
    .join(', ');

export function Histogram({ tasks }: { tasks: Task[] }) {
  const { from, to, slots, total } = useMemo(() => {
    let [first, last] = [Infinity, -Infinity];
    const at = tasks.map((each) => new Date(each.created_at).getTime());
    for (const each of at) [first, last] = [Math.min(first, each), Math.max(last, each)];
    const [found, all]: [Counts[], Counts] = [[], {}];
    tasks.forEach(({ status }, index) => {
      const slot = (found[Math.floor(((at[index]! - first) / (last - first + 1)) * SLOTS)] ??= {});
      slot[status] = (slot[status] ?? 0) + 1;
      all[status] = (all[status] ?? 0) + 1;
    });
    return { from: first, to: last, slots: found, total: all };
  }, [tasks]);
  if (!tasks.length) return null;
  const sums = slots.map((each) => Object.values(each).reduce((sum, n) => sum + n, 0));
  const unit = HEIGHT / sums.reduce((most, each) => Math.max(most, each), 1);
  const moment = (at: number): string => time(new Date(at).toISOString());
  const bars = slots.flatMap((counts, index) => {
    let below = HEIGHT;
    return STATES.filter((state) => counts[state]).map((state) => {
      const height = counts[state]! * unit;
      below -= height;
      const begin = moment(from + ((to - from) / SLOTS) * index);
      return (
        <rect class={state} x={index + 0.1} y={below} width={0.8} height={height}>
          <title>{`${begin}: ${told(counts)}`}</title>
        </rect>
      );
    });
  });
  return (
    <figure class="histogram">
      <svg role="img" aria-label={`${T.tasks.overTime(moment(from), moment(to))}: ${told(total)}`} viewBox={`0 0 ${SLOTS} ${HEIGHT}`} preserveAspectRatio="none">
        {bars}
      </svg>
      <figcaption aria-hidden="true">
        <span>{moment(from)}</span>
        <span>{moment(to)}</span>
      </figcaption>
    </figure>
  );
}
