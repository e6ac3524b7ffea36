// The fields of a JSON Schema, also of nested objects, lists and alternatives. What a form cannot ask for is JSON.

import { useEffect, useId, useState } from 'preact/hooks';
import { isExact, isParent, parse } from '../exact';
import type { Schema } from '../model';
import { T } from '../texts';

/** A schema that refers to itself asks for no more than this at once. */
const DEEPEST = 8;
const NOTHING: Schema = {};

export const isRecord = (value: unknown): value is Record<string, unknown> => isParent(value) && !Array.isArray(value);

/** Without references, and with what is said in several places in one. "This or nothing" is this: an empty field is nothing. */
export function resolved(schema: Schema, root: Schema, steps = DEEPEST): Schema {
  if (steps === 0) return NOTHING;
  const inner = (each: Schema) => resolved(each, root, steps - 1);
  const { $ref, allOf, oneOf, anyOf, ...own } = schema;
  const name = $ref?.split('/').pop();
  const named = name === undefined ? NOTHING : name === '#' ? inner(root) : inner(root.$defs?.[name] ?? root.definitions?.[name] ?? NOTHING);
  const parts = [named, ...(allOf ?? []).map(inner), own];
  const found: Schema = Object.assign({}, ...parts);
  const properties = parts.flatMap((each) => (each.properties ? [each.properties] : []));
  if (properties.length > 1) {
    found.properties = Object.assign({}, ...properties);
    found.required = parts.flatMap((each) => each.required ?? []);
  }
  const types = Array.isArray(found.type) ? found.type.map((type): Schema => ({ type })) : [];
  const several = (oneOf ?? anyOf)?.map(inner) ?? (types.length ? types : found.anyOf);
  const some = several?.filter((each) => each.type !== 'null');
  if (!some) return found;
  delete found.anyOf;
  if (types.length) delete found.type;
  return some.length === 1 ? { ...some[0], ...found } : { ...found, anyOf: some };
}

type Kind = 'text' | 'number' | 'boolean' | 'choice' | 'variants' | 'object' | 'list' | 'json';

export function kindOf(schema: Schema, depth = 0): Kind {
  if (schema.enum || schema.const !== undefined) return 'choice';
  if (depth > DEEPEST) return 'json';
  if (schema.anyOf) return 'variants';
  if (schema.properties) return 'object';
  if (schema.type === 'array' && isRecord(schema.items) && !schema.prefixItems) return 'list';
  const kinds: Record<string, Kind> = { string: 'text', integer: 'number', number: 'number', boolean: 'boolean' };
  return kinds[String(schema.type)] ?? 'json';
}

/** Which of several alternatives a value is, or is on the way to be; -1 if none. */
function variantOf(schema: Schema, root: Schema, value: unknown): number {
  const whole = schema.anyOf!.findIndex((each) => fits(each, root, value, true));
  return whole >= 0 ? whole : schema.anyOf!.findIndex((each) => fits(each, root, value, false));
}

/** Whether a value is of the kind that a schema describes, and has all that it must have. */
function fits(schema: Schema, root: Schema, value: unknown, isWhole: boolean): boolean {
  switch (kindOf(schema)) {
    case 'choice':
      return choices(schema).some((each) => JSON.stringify(each) === JSON.stringify(value));
    case 'variants':
      return schema.anyOf!.some((each) => fits(each, root, value, isWhole));
    case 'object':
      return (
        isRecord(value) &&
        (!isWhole || (schema.required ?? []).every((name) => Object.hasOwn(value, name))) &&
        Object.entries(value).every(([name, each]) => {
          const property = schema.properties![name];
          return property ? each === undefined || fits(resolved(property, root), root, each, isWhole) : schema.additionalProperties !== false;
        })
      );
    case 'list':
      return Array.isArray(value);
    case 'text':
      return typeof value === 'string';
    case 'number':
      return typeof value === 'number' || isExact(value);
    case 'boolean':
      return typeof value === 'boolean';
    default:
      return schema.type === 'array' ? Array.isArray(value) : schema.type === 'object' ? isRecord(value) : true;
  }
}

const choices = (schema: Schema): unknown[] => schema.enum ?? [schema.const];

/** Where something is missing that must be given, if it is. */
export function missing(schema: Schema, root: Schema, value: unknown, path = ''): string | undefined {
  const below = (inner: Schema, of: unknown, name: string) => missing(resolved(inner, root), root, of, path ? `${path}.${name}` : name);
  const kind = kindOf(schema);
  if (kind === 'variants') {
    const chosen = schema.anyOf![variantOf(schema, root, value)];
    return chosen && missing(chosen, root, value, path);
  }
  if (kind === 'list' && Array.isArray(value)) {
    for (const [at, each] of value.entries()) {
      const found = each === undefined ? `${path}.${at + 1}` : below(schema.items!, each, String(at + 1));
      if (found) return found;
    }
  }
  if (kind === 'object' && isRecord(value))
    for (const [name, inner] of Object.entries(schema.properties!)) {
      const each = value[name];
      if (each === undefined && schema.required?.includes(name)) return path ? `${path}.${name}` : name;
      const found = each === undefined ? undefined : below(inner, each, name);
      if (found) return found;
    }
  return undefined;
}

interface Props {
  /** Where it is in the whole, which tells it from others. */
  path: string;
  schema: Schema;
  root: Schema;
  value: unknown;
  isRequired?: boolean;
  depth?: number;
  onChange: (value: unknown) => void;
  /** Told where something was typed that is no value, and when that is over. */
  onBad: (id: string, path?: string) => void;
}

/** All fields of an object. */
export function Fields({ path, schema, root, value, depth = 0, onChange, onBad }: Props) {
  const given = isRecord(value) ? value : {};
  return (
    <>
      {Object.entries(schema.properties ?? {}).map(([name, each]) => (
        <Field
          key={name}
          path={path ? `${path}.${name}` : name}
          schema={resolved(each, root)}
          root={root}
          value={given[name]}
          isRequired={schema.required?.includes(name) ?? false}
          depth={depth + 1}
          onChange={(changed) => {
            const { [name]: _, ...others } = given;
            onChange(changed === undefined ? others : { ...others, [name]: changed });
          }}
          onBad={onBad}
        />
      ))}
    </>
  );
}

export function Field(props: Props) {
  const { path, schema, value, isRequired, depth = 0, onChange } = props;
  const kind = kindOf(schema, depth);
  const label = (
    <>
      {path.split('.').pop()}
      {isRequired && ' *'} {schema.description && <small>{schema.description}</small>}
    </>
  );
  if (kind === 'variants') return <Variants {...props} label={label} />;
  if (kind === 'list') return <List {...props} label={label} />;
  if (kind === 'object')
    return (
      <fieldset>
        <legend>{label}</legend>
        {isRecord(value) || isRequired ? <Fields {...props} /> : <button type="button" onClick={() => onChange({})}>{T.tasks.give(path)}</button>}
        {isRecord(value) && !isRequired && <button type="button" onClick={() => onChange(undefined)}>{T.tasks.leaveOut(path)}</button>}
      </fieldset>
    );
  if (kind === 'boolean')
    return (
      <label class="check">
        <input type="checkbox" checked={(value ?? schema.default) === true} onChange={(event) => onChange(event.currentTarget.checked)} /> {label}
      </label>
    );
  if (kind === 'choice') {
    const all = choices(schema);
    const at = all.findIndex((each) => JSON.stringify(each) === JSON.stringify(value ?? schema.default));
    return (
      <label>
        {label}
        <select value={String(at)} onChange={(event) => onChange(all[Number(event.currentTarget.value)])}>
          <option value="-1" />
          {all.map((each, index) => <option key={index} value={String(index)}>{typeof each === 'string' ? each : JSON.stringify(each)}</option>)}
        </select>
      </label>
    );
  }
  return <Typed {...props} kind={kind} label={label} />;
}

type Labelled = Props & { label: preact.ComponentChildren };

function Typed({ path, schema, value, kind, label, onChange, onBad }: Labelled & { kind: 'text' | 'number' | 'json' }) {
  const [text, setText] = useState(value === undefined || value === null ? '' : typeof value === 'string' && kind === 'text' ? value : JSON.stringify(value));
  const [isBad, setBad] = useState(false);
  const id = useId();
  useEffect(() => () => onBad(id), []);
  const tell = (found: boolean) => {
    setBad(found);
    onBad(id, found ? path : undefined);
  };
  const typed = (entered: string) => {
    setText(entered);
    tell(false);
    if (!entered.trim()) return onChange(undefined);
    if (kind === 'text') return onChange(entered);
    try {
      const read = parse(entered);
      if (kind === 'number' && typeof read !== 'number' && !isExact(read)) throw new Error();
      onChange(read);
    } catch {
      tell(true);
    }
  };
  const { default: usual } = schema;
  const shown = usual === undefined || usual === null ? '' : typeof usual === 'string' ? usual : JSON.stringify(usual);
  return (
    <label>
      {label}
      {kind === 'json' ? (
        <textarea rows={3} spellcheck={false} aria-invalid={isBad} placeholder={shown || 'JSON'} value={text} onInput={(event) => typed(event.currentTarget.value)} />
      ) : (
        <input inputMode={kind === 'number' ? 'decimal' : 'text'} aria-invalid={isBad} placeholder={shown} value={text} onInput={(event) => typed(event.currentTarget.value)} />
      )}
    </label>
  );
}

let last = 0;

function List({ path, schema, root, value, depth = 0, label, onChange, onBad }: Labelled) {
  const given: unknown[] = Array.isArray(value) ? value : [];
  // Each keeps what was typed into it, whatever becomes of those before it.
  const [ids, setIds] = useState(() => given.map(() => (last += 1)));
  const inner = resolved(schema.items as Schema, root);
  const first = { object: {}, list: [], boolean: false }[kindOf(inner) as string];
  return (
    <fieldset>
      <legend>{label}</legend>
      {given.map((each, at) => (
        <div class="item" key={ids[at]}>
          <Field
            path={`${path}.${at + 1}`}
            schema={inner}
            root={root}
            value={each}
            isRequired
            depth={depth + 1}
            onChange={(changed) => onChange(given.map((before, n) => (n === at ? changed : before)))}
            onBad={onBad}
          />
          <button
            type="button"
            aria-label={T.tasks.leaveOut(`${path}.${at + 1}`)}
            onClick={() => {
              setIds(ids.filter((_, n) => n !== at));
              onChange(given.length > 1 ? given.filter((_, n) => n !== at) : undefined);
            }}
          >
            ×
          </button>
        </div>
      ))}
      <button
        type="button"
        onClick={() => {
          setIds([...ids, (last += 1)]);
          onChange([...given, first]);
        }}
      >
        {T.tasks.add(path)}
      </button>
    </fieldset>
  );
}

function Variants(props: Labelled) {
  const { path, schema, root, value, depth = 0, label, onChange } = props;
  const all = schema.anyOf!;
  const [at, setAt] = useState(() => {
    const known = value === undefined ? -1 : variantOf(schema, root, value);
    return known < 0 && props.isRequired ? 0 : known;
  });
  const chosen = all[at];
  return (
    <fieldset>
      <legend>{label}</legend>
      <select
        aria-label={T.tasks.variant(path)}
        value={String(at)}
        onChange={(event) => {
          const next = Number(event.currentTarget.value);
          setAt(next);
          onChange(all[next] && kindOf(all[next]!) === 'object' ? constants(all[next]!, root) : undefined);
        }}
      >
        {!props.isRequired && <option value="-1" />}
        {all.map((each, index) => <option key={index} value={String(index)}>{titleOf(each, root) || `${index + 1}`}</option>)}
      </select>
      {chosen && (kindOf(chosen) === 'object' ? <Fields key={at} {...props} schema={chosen} depth={depth + 1} /> : <Field key={at} {...props} schema={{ ...chosen, description: undefined }} isRequired={false} depth={depth + 1} />)}
    </fieldset>
  );
}

/** What a variant always is, which tells it from the others. */
function constants(schema: Schema, root: Schema): Record<string, unknown> {
  const found: Record<string, unknown> = {};
  for (const [name, each] of Object.entries(schema.properties ?? {})) {
    const inner = resolved(each, root);
    const only = inner.const ?? (inner.enum?.length === 1 ? inner.enum[0] : undefined);
    if (only !== undefined) found[name] = only;
  }
  return found;
}

const titleOf = (schema: Schema, root: Schema): string =>
  schema.title ?? (Object.values(constants(schema, root)).map(String).join(' ') || String(schema.type ?? (schema.properties ? Object.keys(schema.properties).join(', ') : '')));
