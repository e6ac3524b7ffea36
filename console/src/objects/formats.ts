// What the bytes of an object are, read in the page.

/** Comma- or tab-separated values (RFC 4180), at most `limit` rows. */
export function readRows(text: string, separator: string, limit: number): string[][] {
  const rows: string[][] = [];
  let row: string[] = [];
  let cell = '';
  let isQuoted = false;
  for (let at = 0; at < text.length && rows.length < limit; at += 1) {
    const sign = text[at]!;
    if (isQuoted) {
      if (sign !== '"') cell += sign;
      else if (text[at + 1] === '"') {
        cell += '"';
        at += 1;
      } else isQuoted = false;
    } else if (sign === '"' && !cell) isQuoted = true;
    else if (sign === separator) {
      row.push(cell);
      cell = '';
    } else if (sign === '\n') {
      rows.push([...row, cell.replace(/\r$/, '')]);
      row = [];
      cell = '';
    } else cell += sign;
  }
  if ((cell || row.length) && rows.length < limit) rows.push([...row, cell]);
  return rows;
}

export interface Npy {
  shape: number[];
  type: string;
  order: string;
  /** Of the numbers that were loaded; none of types that are not plain numbers. */
  statistics?: { count: number; min: number; max: number; mean: number; deviation: number; notFinite: number };
}

type Reader = (view: DataView, at: number, little: boolean) => number;
const READERS: Record<string, [number, Reader]> = {
  f4: [4, (view, at, little) => view.getFloat32(at, little)],
  f8: [8, (view, at, little) => view.getFloat64(at, little)],
  i1: [1, (view, at) => view.getInt8(at)],
  i2: [2, (view, at, little) => view.getInt16(at, little)],
  i4: [4, (view, at, little) => view.getInt32(at, little)],
  i8: [8, (view, at, little) => Number(view.getBigInt64(at, little))],
  u1: [1, (view, at) => view.getUint8(at)],
  u2: [2, (view, at, little) => view.getUint16(at, little)],
  u4: [4, (view, at, little) => view.getUint32(at, little)],
  u8: [8, (view, at, little) => Number(view.getBigUint64(at, little))],
  b1: [1, (view, at) => view.getUint8(at)],
};

/** NumPy's own format (NEP 1). */
export function readNpy(bytes: Uint8Array): Npy | null {
  if (bytes.length < 12 || String.fromCharCode(...bytes.slice(1, 6)) !== 'NUMPY' || bytes[0] !== 0x93) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const isOld = bytes[6] === 1;
  const length = isOld ? view.getUint16(8, true) : view.getUint32(8, true);
  const begin = (isOld ? 10 : 12) + length;
  const header = new TextDecoder().decode(bytes.slice(isOld ? 10 : 12, begin));
  const type = /'descr':\s*'([^']*)'/.exec(header)?.[1] ?? '';
  const shape = (/'shape':\s*\(([^)]*)\)/.exec(header)?.[1] ?? '').split(',').filter((each) => each.trim()).map(Number);
  const found: Npy = { shape, type, order: /'fortran_order':\s*True/.test(header) ? 'F' : 'C' };
  const reader = Object.hasOwn(READERS, type.slice(1)) ? READERS[type.slice(1)] : undefined;
  if (reader) {
    const [width, read] = reader;
    let [count, sum, squares, min, max, notFinite] = [0, 0, 0, Infinity, -Infinity, 0];
    for (let at = begin; at + width <= bytes.length; at += width) {
      const value = read(view, at, type[0] !== '>');
      if (!Number.isFinite(value)) {
        notFinite += 1;
        continue;
      }
      // Welford's way, so that large numbers lose nothing.
      count += 1;
      const step = value - sum;
      sum += step / count;
      squares += step * (value - sum);
      if (value < min) min = value;
      if (value > max) max = value;
    }
    if (count) found.statistics = { count, min, max, mean: sum, deviation: Math.sqrt(squares / count), notFinite };
  }
  return found;
}

/** Bytes as people who look at bytes expect them: 16 a line, with the signs beside them. */
export function hex(bytes: Uint8Array, from = 0, lines = 64): string {
  const shown: string[] = [];
  for (let at = from; at < bytes.length && shown.length < lines; at += 16) {
    const line = bytes.slice(at, at + 16);
    const digits = [...line].map((each) => each.toString(16).padStart(2, '0'));
    const signs = [...line].map((each) => (each > 31 && each < 127 ? String.fromCharCode(each) : '·'));
    shown.push(`${at.toString(16).padStart(8, '0')}  ${digits.join(' ').padEnd(47)}  ${signs.join('')}`);
  }
  return shown.join('\n');
}

export function text(bytes: Uint8Array, isWhole: boolean): string | null {
  try {
    // Of the beginning of a text the last sign may be cut. A mark at its beginning is part of it.
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes, { stream: !isWhole });
  } catch {
    return null;
  }
}

export type Kind = 'json' | 'lines' | 'markdown' | 'table' | 'parquet' | 'image' | 'npy' | 'text' | 'bytes';

export function kindOf(key: string, type: string): Kind {
  const plain = type.split(';')[0]!.trim().toLowerCase();
  const ending = /\.([a-z0-9]+)$/i.exec(key)?.[1]?.toLowerCase() ?? '';
  if (/^application\/(.+\+)?(x-)?(ndjson|jsonl|jsonlines)/.test(plain) || ['jsonl', 'ndjson'].includes(ending)) return 'lines';
  if (plain === 'application/json' || plain.endsWith('+json') || ending === 'json') return 'json';
  if (plain === 'text/markdown' || ending === 'md') return 'markdown';
  if (/^text\/(csv|tab-separated-values)/.test(plain) || ['csv', 'tsv'].includes(ending)) return 'table';
  if (plain === 'application/vnd.apache.parquet' || ending === 'parquet') return 'parquet';
  if (/^image\/(png|jpeg|gif|webp|avif|bmp|svg\+xml)/.test(plain)) return 'image';
  if (ending === 'npy' || plain === 'application/x-npy') return 'npy';
  if (plain.startsWith('text/') || /\b(xml|yaml|javascript|toml)\b/.test(plain)) return 'text';
  return 'bytes';
}
