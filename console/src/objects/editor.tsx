// A change by hand: saved only if the object is still the one that was opened.

import { useState } from 'preact/hooks';
import { request } from '../api';
import { T } from '../texts';
import { tell } from '../ui/notices';
import { useUnsaved } from '../unsaved';
import { kindOf, text as decoded } from './formats';
import { isStatus, openAny, type Opened } from './transfer';

interface Props {
  object: Opened;
  onSaved: () => void;
  onTheirs: () => void;
  onCancel: () => void;
}

export function Editor({ object, onSaved, onTheirs, onCancel }: Props) {
  const isJson = kindOf(object.key, object.type) === 'json';
  const original = decoded(object.bytes, true) ?? '';
  const [isBusy, setBusy] = useState(false);
  const [before] = useState(() => pretty(original, isJson));
  const [text, setText] = useState(before);
  const settle = useUnsaved(text !== before);
  const [error, setError] = useState<string>();
  /** What somebody else has made of it; null if that is nothing. */
  const [theirs, setTheirs] = useState<Opened | null>();
  const look = () => openAny(object.key, new AbortController().signal).catch((problem) => (isStatus(problem, 404) ? null : Promise.reject(problem)));
  /** @param over what it takes the place of, and nothing else; null if that is nothing */
  const save = async (over: Opened | null) => {
    setError(undefined);
    if (isJson) {
      try {
        JSON.parse(text.replace(/^\ufeff/, ''));
      } catch (problem) {
        setError(T.object.badJson((problem as Error).message));
        return;
      }
    }
    // A save replaces metadata, end of life and what is served with it, too: what there was goes with it.
    setBusy(true);
    try {
      const headers = { ...object.kept, 'Content-Type': object.type.replace(/(;\s*charset=)[^;]+/i, '$1utf-8') };
      const body = /\r\n/.test(original) && !/(?:^|[^\r])\n/.test(original) ? text.replace(/\r?\n/g, '\r\n') : text;
      if (over?.newest) await request('POST', 'versions', { query: { key: object.key, number: over.newest + 1 }, headers, body });
      else await request('PUT', 'objects', { query: { key: object.key }, headers: { ...headers, ...(over ? { 'If-Match': over.etag } : { 'If-None-Match': '*' }) }, body });
      tell(T.object.saved(object.key));
      settle();
      onSaved();
    } catch (problem) {
      if (isStatus(problem, 412)) await look().then(setTheirs, (worse: Error) => setError(worse.message));
      else setError((problem as Error).message);
    } finally {
      setBusy(false);
    }
  };
  return (
    <form
      class="editor"
      onSubmit={(event) => {
        event.preventDefault();
        void save(object);
      }}
    >
      <textarea
        aria-label={object.key}
        spellcheck={false}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
      />
      {error && <p class="error" role="alert">{error}</p>}
      {theirs !== undefined && (
        <div class="trouble" role="alert">
          <p>{T.object.conflict}</p>
          <h3>{T.object.theirs}</h3>
          {theirs ? <pre tabIndex={0}>{shown(theirs, isJson)}</pre> : <p>{T.object.theirsGone}</p>}
          <div class="tools">
            <button type="button" onClick={() => { settle(); onTheirs(); }}>{T.object.takeTheirs}</button>
            <button type="button" class="danger" disabled={isBusy} onClick={() => void save(theirs)}>{T.object.overwrite}</button>
          </div>
        </div>
      )}
      <div class="buttons">
        <button type="button" onClick={onCancel}>{T.cancel}</button>
        <button type="submit" class="primary" disabled={isBusy}>{T.save}</button>
      </div>
    </form>
  );
}

function shown(theirs: Opened, isJson: boolean): string {
  const isWhole = theirs.size === theirs.bytes.length;
  const plain = decoded(theirs.bytes, isWhole);
  return plain === null ? T.object.theirsNoText : pretty(plain, isJson && isWhole);
}

function pretty(text: string, isJson: boolean): string {
  if (!isJson) return text;
  try {
    const value: unknown = JSON.parse(text);
    const shown = JSON.stringify(value, null, 2);
    // Numbers that JavaScript cannot hold would be changed by a mere look.
    return isSame(text, value) ? shown : text;
  } catch {
    return text;
  }
}

/** Whether writing it again gives the same tokens, so that no digit is lost. */
function isSame(text: string, value: unknown): boolean {
  const bare = (each: string) => each.replace(/"(?:[^"\\]|\\.)*"|\s+/g, (found) => (found[0] === '"' ? '""' : ''));
  return bare(text) === bare(JSON.stringify(value));
}
