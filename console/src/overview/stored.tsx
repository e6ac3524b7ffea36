// What is stored by prefix, and how it has grown, as a timer of the app measures it.

import { useState } from 'preact/hooks';
import { json } from '../api';
import { useLoaded } from '../load';
import { usePoll } from '../poll';
import { link } from '../router';
import { ago, numbers, size, T, UNITS } from '../texts';
import { Trouble } from '../ui/notices';
import { Chart } from './chart';

interface Sizes {
  hours: number | null;
  growth: Record<string, number>;
  samples: { at: string; prefixes: Record<string, [objects: number, bytes: number]> }[];
}

const DRAWN = 5;
const PAUSE = 10 * 60_000;
const HOUR = 3_600_000;
const read = (signal: AbortSignal) => json<Sizes>('GET', 'sizes', { signal });

export function Stored() {
  const loaded = useLoaded(read, []);
  const [newer, setNewer] = useState<Sizes>();
  const [asked, setAsked] = useState(Date.now());
  // It changes once an hour.
  usePoll(async (signal) => {
    if (Date.now() - asked < PAUSE) return;
    setAsked(Date.now());
    setNewer(await read(signal));
  });
  const value = newer ?? loaded.value;
  if (loaded.error) return <Trouble error={loaded.error} again={loaded.again} />;
  if (!value) return <></>;
  const { samples, growth, hours } = value;
  const newest = samples.at(-1);
  const isLate = hours !== null && newest && Date.now() - new Date(newest.at).getTime() > (2 * hours + 0.25) * HOUR;
  return (
    <section aria-label={T.overview.quotas}>
      <h2>{T.overview.quotas}</h2>
      {isLate && (
        <p class="banner" role="alert">
          {T.overview.late(ago(newest.at))} <code>{T.overview.lateCommand}</code>
        </p>
      )}
      {newest ? <Measured samples={samples} growth={growth} /> : <p class="quiet">{hours === null ? T.overview.sizesOff : T.overview.sizesSoon}</p>}
    </section>
  );
}

function Measured({ samples, growth }: Omit<Sizes, 'hours'>) {
  const newest = samples.at(-1)!;
  const rows = Object.entries(newest.prefixes).sort(([, a], [, b]) => b[1] - a[1]);
  const total = (prefixes: Sizes['samples'][number]['prefixes']) => Object.values(prefixes).reduce((sum, [, bytes]) => sum + bytes, 0);
  const drawn = rows.slice(0, DRAWN).map(([prefix]) => prefix);
  const series = [samples.map(({ prefixes }) => total(prefixes)), ...drawn.map((prefix) => samples.map(({ prefixes }) => prefixes[prefix]?.[1] ?? 0))];
  const most = Math.max(...series[0]!, 1);
  const unit = Math.min(UNITS.length - 1, Math.floor(Math.log(most) / Math.log(1024)));
  const change = (bytes: number | undefined) => (bytes === undefined ? '' : `${bytes < 0 ? '−' : '+'}${size(Math.abs(bytes))}`);
  return (
    <>
      <p class="quiet">{T.overview.measured(ago(newest.at), size(total(newest.prefixes)))}</p>
      {samples.length > 1 && (
        <Chart
          title={T.overview.stored(UNITS[unit]!)}
          names={[T.overview.all, ...drawn.map((prefix) => prefix || '/')]}
          times={samples.map(({ at }) => new Date(at).getTime() / 1000)}
          series={series.map((each) => each.map((bytes) => bytes / 1024 ** unit))}
        />
      )}
      <div class="wide" tabIndex={0} role="region" aria-label={T.overview.table}>
        <table>
          <thead>
            <tr>{[T.overview.prefix, T.overview.objectCount, T.list.size, T.overview.growth].map((each) => <th scope="col" key={each}>{each}</th>)}</tr>
          </thead>
          <tbody>
            {rows.map(([prefix, [objects, bytes]]) => (
              <tr key={prefix}>
                <td>{prefix === '*' || prefix.startsWith('.') ? T.overview.names[prefix] ?? prefix : <a href={link('objects', { prefix })}>{prefix || '/'}</a>}</td>
                <td>{numbers.format(objects)}</td>
                <td>{size(bytes)}</td>
                <td>{change(growth[prefix])}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}
