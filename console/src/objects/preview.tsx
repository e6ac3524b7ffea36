// An object as people want to see it. What is stored never runs: it is shown as text, as elements of the page's
// own, or as an image.

import { useEffect, useMemo, useState } from 'preact/hooks';
import { json } from '../api';
import { parse } from '../exact';
import { useLoaded } from '../load';
import { mayName, namesOf } from '../rights';
import { T } from '../texts';
import { Trouble } from '../ui/notices';
import { hex, kindOf, readNpy, readRows, text as decoded } from './formats';
import { JsonTree } from './json';
import { Markdown } from './markdown';
import { SHOWN, type Opened } from './transfer';

const ROWS = 500;
const COLUMNS = 100;
const PARQUET_ROWS = 100;
const CELL = 2000;
const HEX_LINES = 512;

type Face = { name: string; show: () => preact.JSX.Element };

export function Preview({ object }: { object: Opened }) {
  const faces = useMemo(() => facesOf(object), [object]);
  const [chosen, choose] = useState(0);
  const face = faces[Math.min(chosen, faces.length - 1)]!;
  return (
    <div class="preview">
      {object.size > object.bytes.length && <p class="quiet">{T.object.tooLarge(object.size, SHOWN)}</p>}
      {faces.length > 1 && (
        <div class="faces" role="group" aria-label={T.object.preview}>
          {faces.map((each, at) => (
            <button key={each.name} type="button" aria-pressed={each === face} onClick={() => choose(at)}>
              {each.name}
            </button>
          ))}
        </div>
      )}
      <face.show />
    </div>
  );
}

function facesOf(object: Opened): Face[] {
  const { bytes, key, size, type } = object;
  const isWhole = bytes.length === size;
  const kind = kindOf(key, type);
  const plain = decoded(bytes, isWhole);
  const faces: Face[] = [];
  if (kind === 'json' && plain !== null && isWhole) {
    try {
      const value = parse(plain.replace(/^\ufeff/, ''));
      faces.push({ name: T.object.asJson, show: () => <JsonTree value={value} /> });
    } catch {
      // It says that it is JSON and is not: the text shows what it is.
    }
  } else if (kind === 'lines' && plain !== null) {
    const lines = plain.split('\n').filter((each) => each.trim()).slice(0, ROWS);
    const values = lines.map((each) => {
      try {
        return parse(each);
      } catch {
        return each;
      }
    });
    faces.push({ name: T.object.asJson, show: () => <JsonTree value={values} /> });
  } else if (kind === 'markdown' && plain !== null) {
    faces.push({ name: T.object.asPage, show: () => <Markdown text={plain} /> });
  } else if (kind === 'table' && plain !== null) {
    const separator = /\.tsv$/i.test(key) || type.includes('tab-') ? '\t' : ',';
    faces.push({ name: T.object.asTable, show: () => <Table rows={rowsOf(plain.replace(/^\ufeff/, ''), separator, isWhole)} /> });
  } else if (kind === 'parquet' && reader() !== undefined) {
    faces.push({ name: T.object.asTable, show: () => <Parquet storedAs={object.storedAs} /> });
  } else if (kind === 'image' && isWhole) {
    faces.push({ name: T.object.asImage, show: () => <Picture object={object} /> });
  } else if (kind === 'npy') {
    const found = readNpy(bytes);
    if (found) faces.push({ name: T.object.asTable, show: () => <Table rows={npyRows(found)} /> });
  }
  if (plain !== null && kind !== 'parquet') faces.push({ name: T.object.asText, show: () => <pre>{plain}</pre> });
  faces.push({ name: T.object.asHex, show: () => <pre class="hex">{hex(bytes, 0, HEX_LINES)}</pre> });
  return faces;
}

function npyRows(found: NonNullable<ReturnType<typeof readNpy>>): string[][] {
  const rows = [['', ''], ['shape', found.shape.join(' × ')], ['dtype', found.type], ['order', found.order]];
  for (const [name, value] of Object.entries(found.statistics ?? {})) rows.push([name, String(value)]);
  return rows;
}

/** Of the beginning of a table the last row may be cut. */
function rowsOf(text: string, separator: string, isWhole: boolean): string[][] {
  const rows = readRows(text, separator, ROWS + 1);
  return isWhole || rows.length > ROWS ? rows : rows.slice(0, Math.max(1, rows.length - 1));
}

function Table({ rows }: { rows: string[][] }) {
  const most = rows.reduce((widest, row) => Math.max(widest, row.length), 0);
  const [head = [], ...body] = rows.slice(0, ROWS + 1).map((row) => row.slice(0, COLUMNS).map((each) => (each.length > CELL ? `${each.slice(0, CELL)}…` : each)));
  return (
    <>
    {(rows.length > ROWS || most > COLUMNS) && <p class="quiet">{T.object.cutTable(ROWS, COLUMNS)}</p>}
    <div class="wide" tabIndex={0} role="region" aria-label={T.object.asTable}>
      <table>
        <thead>
          <tr>{head.map((each) => <th scope="col">{each}</th>)}</tr>
        </thead>
        <tbody>
          {body.map((row) => (
            <tr>{row.map((each) => <td>{each}</td>)}</tr>
          ))}
        </tbody>
      </table>
    </div>
    </>
  );
}

function Picture({ object }: { object: Opened }) {
  const [url, setUrl] = useState('');
  useEffect(() => {
    // As an image even SVG runs no script.
    const made = URL.createObjectURL(new Blob([object.bytes as BlobPart], { type: object.type }));
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [object]);
  return url ? <img src={url} alt={object.key} /> : <></>;
}

interface Rows {
  columns: { name: string }[];
  rows: Record<string, unknown>[];
}

/** For which agent the user may have it read by a task. */
const reader = (): string | undefined => (mayName('tasks', 'console') ? 'console' : namesOf('tasks')[0]);

function Parquet({ storedAs }: { storedAs: string }) {
  const { value, error, isLoading, again } = useLoaded(async (signal) => {
    const task = await json<{ status: string; result?: Rows; error?: { message: string } }>('POST', 'tasks', {
      json: {
        action: 'query',
        agent_id: reader(),
        payload: { sql: `select * from shown limit ${PARQUET_ROWS}`, tables: { shown: storedAs } },
      },
      headers: { Prefer: 'wait=30' },
      signal,
    });
    if (!task.result) throw new Error(task.error?.message ?? task.status);
    return task.result;
  }, [storedAs]);
  if (error) return <Trouble error={error} again={again} />;
  if (isLoading || !value) return <p class="quiet">{T.loading}</p>;
  const cell = (each: unknown): string => (typeof each === 'object' ? JSON.stringify(each) : String(each));
  return <Table rows={[value.columns.map((each) => each.name), ...value.rows.map((row) => value.columns.map((each) => cell(row[each.name])))]} />;
}
