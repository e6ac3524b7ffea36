import { useEffect, useRef } from 'preact/hooks';
import 'uplot/dist/uPlot.min.css';
import { fail } from '../ui/notices';
import { plot, type Drawn, type Plot } from '../plot';

const COLOURS = ['#2f7de1', '#e0862a', '#c2415a', '#3f9d58', '#8a63d2', '#7a8794'];

const clock = (parts: Intl.DateTimeFormatOptions) => new Intl.DateTimeFormat('en-GB', parts);
const seconds = clock({ hour: '2-digit', minute: '2-digit', second: '2-digit' });
const minutes = clock({ hour: '2-digit', minute: '2-digit' });
const days = clock({ day: 'numeric', month: 'short' });

/** Of the ticks of the axis, with as much as tells them apart. */
function moments(_: Plot, ticks: number[]): string[] {
  const step = (ticks[1] ?? 60) - (ticks[0] ?? 0);
  const shown = step < 60 ? seconds : step < 86_400 ? minutes : days;
  return ticks.map((each) => shown.format(each * 1000));
}

/** In the legend, while nobody points at others. */
function latestOf(made: Plot): void {
  if (made.cursor.idx === null || made.cursor.idx === undefined) made.setLegend({ idx: made.data[0].length - 1 });
}

const shortly = (_: Plot, value: number | null): string => value?.toPrecision(3) ?? '–';

interface Props {
  title: string;
  names: string[];
  times: number[];
  series: (number | null)[][];
}

/** Lines over time, which people who do not see them hear as their latest values. */
export function Chart({ title, names, times, series }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const drawn = useRef<Plot>(undefined);
  const data = [times, ...series] as NonNullable<Drawn>;
  const latestData = useRef(data);
  latestData.current = data;
  useEffect(() => {
    const element = box.current!;
    const style = getComputedStyle(element);
    const axis = { stroke: style.color, grid: { stroke: '#8883', width: 1 }, ticks: { stroke: '#8883', width: 1 } };
    const size = () => ({ width: element.clientWidth, height: 150 });
    let isGone = false;
    const options = {
      ...size(),
      legend: { show: names.length > 1 },
      cursor: { drag: { x: false, y: false } },
      scales: { y: { range: (_: Plot, __: number, most: number): [number, number] => [0, most > 0 ? most * 1.1 : 1] } },
      series: [{}, ...names.map((label, at) => ({ label, value: shortly, stroke: COLOURS[at % COLOURS.length]!, width: 1.5 }))],
      axes: [{ ...axis, values: moments }, { ...axis, size: 54 }],
    };
    plot(options, latestData.current, element).then((made) => {
      if (isGone) return made.destroy();
      drawn.current = made;
      made.setData(latestData.current);
      latestOf(made);
    }, fail);
    const watch = new ResizeObserver(() => drawn.current?.setSize(size()));
    watch.observe(element);
    return () => {
      isGone = true;
      watch.disconnect();
      drawn.current?.destroy();
    };
  }, [names.join()]);
  useEffect(() => {
    drawn.current?.setData(data);
    if (drawn.current) latestOf(drawn.current);
  }, [times]);
  const latest = series.map((each, at) => `${names[at]}: ${each.at(-1)?.toPrecision(3) ?? '–'}`).join(', ');
  return (
    <figure>
      <figcaption>{title}</figcaption>
      <div ref={box} role="img" aria-label={`${title}. ${latest}`} />
    </figure>
  );
}
