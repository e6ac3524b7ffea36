// The tables: entities that match a filter, page by page, and beside them the one that is chosen.

import { useEffect, useRef, useState } from 'preact/hooks';
import { ApiError, json, request } from '../api';
import { parse } from '../exact';
import { useLoaded } from '../load';
import type { Entity } from '../model';
import { JsonTree } from '../objects/json';
import { mayName } from '../rights';
import { go, link, place } from '../router';
import { T } from '../texts';
import { Dialog } from '../ui/dialog';
import { Names, useIsForeign } from '../ui/names';
import { tell, Trouble } from '../ui/notices';
import { settleAll } from '../unsaved';

const PAGE = 200;
/** Entities of many kinds have together more properties than a page can show. */
const COLUMNS = 60;
const path = (table: string): string => `tables/${encodeURIComponent(table)}`;

export function Tables() {
  const { table } = place.value.query;
  return (
    <div class={table ? 'split narrow has-detail' : 'split narrow'}>
      <section class="list" aria-label={T.tables.title}>
        <Names kind="tables" label={T.tables.title} selected={table} linkTo={(name) => link('tables', { table: name })} />
      </section>
      <section class="detail" aria-label={table ?? T.tables.title}>
        {table ? <Table key={table} table={table} /> : <p class="empty">{T.tables.pick}</p>}
      </section>
    </div>
  );
}

function Table({ table }: { table: string }) {
  const { filter = '', select = '', entity } = place.value.query;
  const [asked, ask] = useState({ filter, select });
  const [entities, setEntities] = useState<Entity[]>([]);
  const [cursor, setCursor] = useState<string | null>(null);
  const [error, setError] = useState<Error>();
  const [isLoading, setLoading] = useState(true);
  const chosen = keysOf(entity);
  const choose = (keys?: Keys) => go(link('tables', { table, filter, select, entity: keys && JSON.stringify(keys) }));
  const [round, setRound] = useState(0);
  const control = useRef<AbortController>(undefined);
  const load = async (from: string | null, signal?: AbortSignal) => {
    setLoading(true);
    setError(undefined);
    try {
      const page = await json<{ entities: Entity[]; cursor: string | null }>('GET', path(table), {
        query: { limit: PAGE, cursor: from, filter: filter || null, select: select ? `PartitionKey,RowKey,${select}` : null },
        ...(signal ? { signal } : {}),
      });
      if (signal?.aborted) return;
      setEntities((before) => (from ? [...before, ...page.entities] : page.entities));
      setCursor(page.cursor);
    } catch (problem) {
      if (signal?.aborted) return;
      if (!from) setEntities([]);
      setError(problem as Error);
    } finally {
      if (!signal?.aborted) setLoading(false);
    }
  };
  useEffect(() => {
    const made = new AbortController();
    control.current = made;
    void load(null, made.signal);
    return () => made.abort();
  }, [table, filter, select, round]);
  const all = [...new Set(entities.flatMap((each) => Object.keys(each)))].filter((name) => name !== 'etag' && !name.includes('@'));
  const columns = all.slice(0, COLUMNS);
  return (
    <>
      <div class="title">
        <h2>{table}</h2>
        <button type="button" class="plain" aria-label={T.close} onClick={() => go(link('tables'))}>×</button>
      </div>
      <form
        class="tools"
        onSubmit={(event) => {
          event.preventDefault();
          go(link('tables', { table, ...asked }), { replace: true });
          setRound((n) => n + 1);
        }}
      >
        <input type="search" aria-label={T.tables.filter} placeholder={T.tables.filterHint} value={asked.filter} onInput={(event) => ask({ ...asked, filter: event.currentTarget.value })} />
        <input class="filter" aria-label={T.tables.select} placeholder={T.tables.select} value={asked.select} onInput={(event) => ask({ ...asked, select: event.currentTarget.value })} />
        <button type="submit" class="primary">{T.tables.run}</button>
      </form>
      {error && <Trouble error={error} again={() => void load(null, control.current?.signal)} />}
      {!error && !entities.length && <p class="empty">{isLoading ? T.loading : T.tables.none}</p>}
      {all.length > COLUMNS && <p class="quiet">{T.tables.cut(COLUMNS, all.length)}</p>}
      {entities.length > 0 && (
        <div class="wide" tabIndex={0} role="region" aria-label={table}>
          <table>
            <thead><tr>{columns.map((name) => <th scope="col" key={name}>{name}</th>)}</tr></thead>
            <tbody>
              {entities.map((each) => (
                <tr key={`${each.PartitionKey}\0${each.RowKey}`} aria-selected={each.PartitionKey === chosen?.[0] && each.RowKey === chosen[1]}>
                  {columns.map((name, at) => (
                    <td key={name}>
                      {at === 0 ? <button type="button" class="link" onClick={() => choose([each.PartitionKey, each.RowKey])}>{shown(each[name])}</button> : shown(each[name])}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {cursor && <button type="button" disabled={isLoading} onClick={() => void load(cursor, control.current?.signal)}>{T.tables.more}</button>}
      {chosen && (
        <EntityBox key={entity} table={table} keys={chosen} onClose={() => choose()} onChange={() => setRound((n) => n + 1)} />
      )}
    </>
  );
}

type Keys = [partition: string, row: string];

/** Of the entity that the address names. */
function keysOf(text: string | undefined): Keys | undefined {
  try {
    const found: unknown = text && JSON.parse(text);
    if (Array.isArray(found) && found.length === 2 && found.every((each) => typeof each === 'string')) return found as Keys;
  } catch {
    // It names none.
  }
  return undefined;
}

const shown = (value: unknown): string => {
  if (value === undefined) return '';
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return text.length > 300 ? `${text.slice(0, 300)}…` : text || '""';
};

function EntityBox({ table, keys, onClose, onChange }: { table: string; keys: Keys; onClose: () => void; onChange: () => void }) {
  const [PartitionKey, RowKey] = keys;
  // The whole of it, as it is now: the list may show some of its properties only, and a save replaces all.
  const loaded = useLoaded((signal) => json<Entity>('GET', path(table), { query: { partition: PartitionKey, row: RowKey }, signal }), []);
  const { etag: opened = '', Timestamp } = loaded.value ?? ({} as Partial<Entity>);
  const properties = propertiesOf(loaded.value);
  /** What somebody else has made of it; null if that is nothing. */
  const [theirs, setTheirs] = useState<Entity | null>();
  const etag = theirs?.etag ?? opened;
  const mayChange = useIsForeign('tables', table) && mayName('tables', table) && !!loaded.value;
  const [isBusy, setBusy] = useState(false);
  const [text, setText] = useState<string>();
  const [error, setError] = useState<string>();
  const [isRemoving, setRemoving] = useState(false);
  const query = { partition: PartitionKey, row: RowKey };
  const run = async (method: string, done: string, body?: unknown) => {
    setError(undefined);
    setBusy(true);
    try {
      await request(method, path(table), { query, headers: { 'If-Match': `"${etag}"` }, ...(body === undefined ? {} : { json: body }) });
      tell(done);
      settleAll();
      onChange();
      onClose();
    } catch (problem) {
      const isConflict = problem instanceof ApiError && problem.status === 412;
      setError(isConflict ? T.object.conflict : (problem as Error).message);
      if (isConflict) await json<Entity>('GET', path(table), { query }).then(setTheirs, (other) => other instanceof ApiError && other.status === 404 && setTheirs(null));
    } finally {
      setBusy(false);
    }
  };
  const save = async () => {
    let body: unknown;
    try {
      body = parse(text!);
    } catch (problem) {
      return setError(T.object.badJson((problem as Error).message));
    }
    await run('PUT', T.tables.saved, body);
  };
  return (
    <Dialog
      title={`${PartitionKey} / ${RowKey}`}
      error={error ?? loaded.error?.message}
      isBusy={isBusy}
      isChanged={text !== undefined && text !== JSON.stringify(properties, null, 2)}
      onClose={onClose}
      {...(text === undefined ? {} : { onSubmit: () => void save() })}
      {...(theirs ? { submit: T.object.overwrite, isDangerous: true } : {})}
      more={
        <>
          {text === undefined && mayChange && <button type="button" onClick={() => setText(JSON.stringify(properties, null, 2))}>{T.object.edit}</button>}
          {!isRemoving && mayChange && <button type="button" class="danger" onClick={() => setRemoving(true)}>{T.object.remove}</button>}
          {isRemoving && (
            <button type="button" class="danger" onClick={() => void run('DELETE', T.tables.removed)}>
              {T.tables.removeTitle(`${PartitionKey} / ${RowKey}`)}
            </button>
          )}
        </>
      }
    >
      <p class="quiet">{Timestamp}</p>
      {!loaded.value ? !loaded.error && <p class="quiet">{T.loading}</p> : text === undefined ? <JsonTree value={properties} /> : <textarea rows={14} spellcheck={false} aria-label={RowKey} value={text} onInput={(event) => setText(event.currentTarget.value)} />}
      {theirs !== undefined && (
        <>
          <h3>{T.object.theirs}</h3>
          {theirs ? <pre tabIndex={0}>{JSON.stringify(propertiesOf(theirs), null, 2)}</pre> : <p>{T.object.theirsGone}</p>}
        </>
      )}
    </Dialog>
  );
}

function propertiesOf(entity: Entity | undefined): Record<string, unknown> {
  const { PartitionKey: _, RowKey: __, Timestamp: ___, etag: ____, ...properties } = entity ?? ({} as Partial<Entity>);
  return properties;
}
