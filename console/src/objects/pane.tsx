// One object: what is in it, what is known of it, its versions, and what can be done to it.

import { useEffect, useMemo, useState } from 'preact/hooks';
import { json, request } from '../api';
import { numberOf } from '../exact';
import { useLoaded } from '../load';
import { may, mayBelow } from '../rights';
import { go, link, place } from '../router';
import { size, T, time } from '../texts';
import { Dialog } from '../ui/dialog';
import { fail, tell, Trouble } from '../ui/notices';
import { Editor } from './editor';
import { text } from './formats';
import { folderOf } from './names';
import { Preview } from './preview';
import { download, isStatus, openAny, type Opened } from './transfer';
import { Versions } from './versions';

interface Props {
  objectKey: string;
  onChange: () => void;
  onClose: () => void;
}

const TABS = ['preview', 'details', 'versions'] as const;

export function ObjectPane({ objectKey, onChange, onClose }: Props) {
  const loaded = useLoaded((signal) => openAny(objectKey, signal), [objectKey]);
  const [isEdited, setEdited] = useState(false);
  const [asked, ask] = useState<'copy' | 'move' | 'delete' | 'metadata'>();
  const tab = TABS.find((each) => each === place.value.query.tab) ?? 'preview';
  // Another tab is another view: the question whether to leave the editor has been answered.
  useEffect(() => setEdited(false), [tab]);
  const changed = () => {
    loaded.again();
    onChange();
  };
  const object = loaded.value;
  /** Bytes that are no text would be lost in an editor of text. */
  const isText = useMemo(() => object && object.size === object.bytes.length && text(object.bytes, true) !== null, [object]);
  const isGone = isStatus(loaded.error, 404);
  /** Versions stay as they are; what changes is which is the current one. */
  const isVersion = object?.version !== undefined;
  return (
    <>
      <div class="title">
        <h2>{objectKey}</h2>
        <button type="button" class="plain" aria-label={T.close} onClick={onClose}>×</button>
      </div>
      <div class="tools">
        <button type="button" disabled={!object} onClick={() => download(object!.storedAs, object!.size).catch(fail)}>{T.object.download}</button>
        {object && isText && may('save', objectKey) && (
          <button type="button" onClick={() => setEdited(true)}>{T.object.edit}</button>
        )}
        {may('load', objectKey) && mayBelow('save', '') && <button type="button" disabled={!object} onClick={() => ask('copy')}>{T.object.copyTo}</button>}
        {may('delete', objectKey) && !isVersion && (
          <>
            {may('load', objectKey) && mayBelow('save', '') && <button type="button" disabled={!object} onClick={() => ask('move')}>{T.object.moveTo}</button>}
            <button type="button" disabled={!object} class="danger" onClick={() => ask('delete')}>{T.object.remove}</button>
          </>
        )}
      </div>
      <nav class="tabs" aria-label={T.object.details}>
        {TABS.map((each) => (
          <a
            key={each}
            aria-current={each === tab ? 'page' : undefined}
            href={link('objects', { ...place.value.query, tab: each })}
          >
            {T.object[each]}
          </a>
        ))}
      </nav>
      {isVersion && <p class="quiet">{T.versions.alone(object!.version!)}</p>}
      {isGone ? <Versions objectKey={objectKey} isGone onChange={changed} /> : loaded.error && <Trouble error={loaded.error} again={loaded.again} />}
      {!object && !loaded.error && <p class="quiet">{T.loading}</p>}
      {object && isEdited && (
        <Editor
          object={object}
          onSaved={() => { setEdited(false); changed(); }}
          onTheirs={() => { setEdited(false); loaded.again(); }}
          onCancel={() => setEdited(false)}
        />
      )}
      {object && !isEdited && tab === 'preview' && <Preview object={object} />}
      {object && !isEdited && tab === 'details' && <Details object={object} onEdit={() => ask('metadata')} />}
      {!isEdited && !isGone && tab === 'versions' && <Versions objectKey={objectKey} onChange={changed} />}
      {(asked === 'copy' || asked === 'move') && (
        <Transfer
          work={asked}
          from={object?.storedAs ?? objectKey}
          suggested={objectKey}
          onClose={() => ask(undefined)}
          onDone={(to) => {
            ask(undefined);
            onChange();
            go(link('objects', { prefix: folderOf(to), key: to }));
          }}
        />
      )}
      {asked === 'delete' && object && (
        <Removal object={object} onClose={() => ask(undefined)} onDone={() => { ask(undefined); onChange(); onClose(); }} />
      )}
      {asked === 'metadata' && object && (
        <Metadata object={object} onClose={() => ask(undefined)} onDone={() => { ask(undefined); changed(); }} />
      )}
    </>
  );
}

function Details({ object, onEdit }: { object: Opened; onEdit: () => void }) {
  const facts: [string, string][] = [
    [T.list.size, `${size(object.size)} (${object.size})`],
    [T.object.type, object.type],
    [T.list.changed, time(object.modified)],
    [T.object.expires, object.expires ? time(object.expires) : T.object.forEver],
    [T.object.etag, object.etag],
    [T.object.sha256, object.sha256 ?? ''],
  ];
  return (
    <div>
      <dl class="facts">
        {facts.filter(([, value]) => value).map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      <h3>{T.object.metadata}</h3>
      <dl class="facts">
        {Object.entries(object.metadata).map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {may('save', object.key) && object.version === undefined && <button type="button" onClick={onEdit}>{T.object.edit}</button>}
    </div>
  );
}

function useAttempt(onDone: () => void) {
  const [error, setError] = useState<string>();
  const [isBusy, setBusy] = useState(false);
  const attempt = async (work: () => Promise<unknown>) => {
    setBusy(true);
    setError(undefined);
    try {
      await work();
      onDone();
    } catch (problem) {
      setError((problem as Error).message);
    } finally {
      setBusy(false);
    }
  };
  return { error, isBusy, attempt };
}

interface Result {
  results: { status: number; problem?: { detail: string; remedy?: string } }[];
}

function Transfer({ work, from, suggested, onClose, onDone }: { work: 'copy' | 'move'; from: string; suggested: string; onClose: () => void; onDone: (to: string) => void }) {
  const [to, setTo] = useState(suggested);
  /** What is there already, and may be replaced when the user says so once more. */
  const [replaced, setReplaced] = useState<string>();
  const { error, isBusy, attempt } = useAttempt(() => onDone(to));
  const run = async () => {
    const { results } = await json<Result>('POST', 'batch', { json: { operations: [{ op: work, key: from, to, ...(replaced === to ? {} : { if_none_match: '*' }) }] } });
    if (results[0]?.status === 412) {
      setReplaced(to);
      throw new Error(T.upload.exists(to));
    }
    const problem = results[0]?.problem;
    if (problem) throw new Error([problem.detail, problem.remedy].filter(Boolean).join('; '));
  };
  const title = work === 'copy' ? T.object.copyTo : T.object.moveTo;
  return (
    <Dialog title={`${title}: ${from}`} submit={replaced === to ? T.upload.replace : title} isDangerous={replaced === to} isBusy={isBusy} error={error} onClose={onClose} onSubmit={() => void attempt(run)}>
      <label>
        {T.object.target}
        <input value={to} onInput={(event) => setTo(event.currentTarget.value)} />
      </label>
    </Dialog>
  );
}

function Removal({ object, onClose, onDone }: { object: Opened; onClose: () => void; onDone: () => void }) {
  const { error, isBusy, attempt } = useAttempt(onDone);
  const run = async () => {
    await request('DELETE', 'objects', { query: { key: object.key }, headers: { 'If-Match': object.etag } });
    tell(T.object.removed(object.key));
  };
  return (
    <Dialog
      title={T.object.removeTitle(object.key)}
      submit={T.object.remove}
      isDangerous
      isBusy={isBusy}
      error={error}
      onClose={onClose}
      onSubmit={() => void attempt(run)}
    >
      <p>{T.object.removeText}</p>
    </Dialog>
  );
}

const metadataText = (object: Opened): string => Object.entries(object.metadata).map(([name, value]) => `${name}: ${value}`).join('\n');

function Metadata({ object, onClose, onDone }: { object: Opened; onClose: () => void; onDone: () => void }) {
  const [text, setText] = useState(metadataText(object));
  const [before] = useState(() =>
    object.expires ? String(Math.max(0, Math.round((new Date(object.expires).getTime() - Date.now()) / 1000))) : '',
  );
  const [ttl, setTtl] = useState(before);
  const { error, isBusy, attempt } = useAttempt(onDone);
  const run = async () => {
    const metadata: Record<string, string> = {};
    for (const line of text.split('\n').filter((each) => each.trim())) {
      const at = line.indexOf(':');
      if (at < 1) throw new Error(T.object.badMetadata(line));
      metadata[line.slice(0, at).trim()] = line.slice(at + 1).trim();
    }
    await request('PATCH', 'objects', {
      query: { key: object.key },
      headers: { 'If-Match': object.etag },
      json: { metadata, ...(ttl === before ? {} : { ttl_seconds: numberOf(ttl, T.object.ttl, T.noNumber) ?? null }) },
    });
    tell(T.object.saved(object.key));
  };
  return (
    <Dialog title={`${T.object.metadata}: ${object.key}`} isBusy={isBusy} isChanged={text !== metadataText(object) || ttl !== before} error={error} onClose={onClose} onSubmit={() => void attempt(run)}>
      <label>
        {T.object.metadata} <small>{T.object.metadataHint}</small>
        <textarea rows={6} value={text} onInput={(event) => setText(event.currentTarget.value)} />
      </label>
      <label>
        {T.object.ttl} <small>{T.object.ttlHint}</small>
        <input inputMode="numeric" value={ttl} onInput={(event) => setTtl(event.currentTarget.value)} />
      </label>
    </Dialog>
  );
}
