// Prometheus' text, and what has happened between two looks at it.

export interface Sample {
  at: number;
  values: Map<string, { labels: Record<string, string>; value: number }[]>;
}

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

export function parse(text: string, at: number): Sample {
  const values: Sample['values'] = new Map();
  for (const line of text.split('\n')) {
    const found = line[0] === '#' ? null : LINE.exec(line);
    if (!found) continue;
    const labels: Record<string, string> = {};
    for (const [, name, value] of (found[2] ?? '').matchAll(LABEL)) labels[name!] = value!.replace(/\\(.)/g, (_, sign) => (sign === 'n' ? '\n' : sign));
    const number = found[3] === '+Inf' ? Infinity : Number(found[3]);
    const several = values.get(found[1]!);
    if (several) several.push({ labels, value: number });
    else values.set(found[1]!, [{ labels, value: number }]);
  }
  return { at, values };
}

type Chosen = (labels: Record<string, string>) => boolean;

export function sum(sample: Sample, name: string, chosen: Chosen = () => true): number {
  return (sample.values.get(name) ?? []).reduce((total, each) => (chosen(each.labels) ? total + each.value : total), 0);
}

/** A second; null where the process has begun anew meanwhile. */
export function rate(before: Sample, now: Sample, name: string, chosen?: Chosen): number | null {
  const grown = sum(now, name, chosen) - sum(before, name, chosen);
  return grown < 0 ? null : grown / ((now.at - before.at) / 1000);
}

/** Of what was measured between the two, in the unit of the bounds; null if there was nothing. */
export function quantiles(before: Sample, now: Sample, name: string, wanted: number[]): (number | null)[] {
  const buckets = new Map<number, number>();
  for (const [sample, sign] of [[now, 1], [before, -1]] as const)
    for (const { labels, value } of sample.values.get(`${name}_bucket`) ?? []) {
      const bound = labels.le === '+Inf' ? Infinity : Number(labels.le);
      buckets.set(bound, (buckets.get(bound) ?? 0) + sign * value);
    }
  const sorted = [...buckets].sort(([a], [b]) => a - b);
  const total = sorted.at(-1)?.[1] ?? 0;
  if (total <= 0) return wanted.map(() => null);
  return wanted.map((part) => {
    let [low, counted] = [0, 0];
    for (const [bound, below] of sorted) {
      if (below >= part * total) return bound === Infinity ? low : low + ((bound - low) * (part * total - counted)) / Math.max(1, below - counted);
      [low, counted] = [bound, below];
    }
    return low;
  });
}
