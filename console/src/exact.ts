// JSON without a digit lost: a number that JavaScript would write otherwise (`1.0`, 12345678901234567890) stays as it
// was written, as long as nobody counts with it.

interface Exact {
  parse(text: string, reviver: (name: string, value: unknown, context?: { source?: string }) => unknown): unknown;
  rawJSON?: (text: string) => object;
  isRawJSON?: (value: unknown) => boolean;
}
const EXACT = JSON as unknown as Exact;
/** What can be such a number; most documents have none, and are read faster without looking at each value. */
const SUSPECT = /\d[\d.]{15}|\.\d*0(?!\d)|\d[eE]|-0(?![.\d])/;

export const isExact = (value: unknown): boolean => EXACT.isRawJSON?.(value) ?? false;
/** A list or an object, of which an exact number is none. */
export const isParent = (value: unknown): value is object => typeof value === 'object' && value !== null && !isExact(value);

export function parse(text: string): unknown {
  const raw = EXACT.rawJSON;
  if (!raw || !SUSPECT.test(text)) return JSON.parse(text);
  return EXACT.parse(text, (_, value, context) =>
    typeof value === 'number' && context?.source !== undefined && String(value) !== context.source ? raw(context.source) : value,
  );
}

/** A number that a user has typed; nothing is `undefined`. */
export function numberOf(typed: string, name: string, wrong: (name: string) => string): number | undefined {
  if (!typed.trim()) return undefined;
  const number = Number(typed);
  if (!Number.isFinite(number)) throw new Error(wrong(name));
  return number;
}
