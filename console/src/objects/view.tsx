// The objects: the names below a prefix, and beside them the one that is chosen.

import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import { mayBelow } from '../rights';
import { go, link, place } from '../router';
import { ago, size, T, time } from '../texts';
import { Trouble } from '../ui/notices';
import { focusContent } from '../ui/dialog';
import { Search } from '../ui/search';
import { Entry, Virtual } from '../ui/virtual';
import { FolderActions } from './folder';
import { nameOf, useListing } from './listing';
import { folderOf } from './names';
import { ObjectPane } from './pane';
import { finished, Uploads, useUploads } from './uploads';
import { useVersioned } from './versioned';

export function Objects() {
  const { prefix = '', key, q = '' } = place.value.query;
  const [round, setRound] = useState(0);
  const listing = useListing(prefix, q, round + finished.value);
  const [seen, setSeen] = useState<[number, number]>([0, 0]);
  const rows = useVersioned(listing.rows, seen, round);
  const onSeen = useCallback((first: number, last: number) => setSeen([first, last]), []);
  const again = () => setRound((n) => n + 1);
  const uploads = useUploads(prefix);
  const maySave = mayBelow('save', prefix);
  const files = useRef<HTMLInputElement>(null);
  const [isOver, setOver] = useState(false);
  const selected = key ? rows.findIndex((row) => !('prefix' in row) && nameOf(row) === key) : -1;
  const [marked, setMarked] = useState(-1);
  useEffect(() => setMarked(selected), [selected]);
  useEffect(() => setMarked(-1), [prefix, q]);

  const open = (index: number) => {
    const row = rows[index];
    if (!row) return;
    go('prefix' in row ? link('objects', { prefix: row.prefix }) : link('objects', { prefix, q, key: nameOf(row) }));
  };
  const row = (index: number) => {
    const each = rows[index]!;
    const name = nameOf(each);
    // In the folder of its versions the object itself has a shorter name than the folder.
    const shown = q ? name : name.slice(prefix.length) || name.slice(folderOf(name).length);
    if ('prefix' in each)
      return (
        <Entry kind="folder" href={link('objects', { prefix: name })}>
          <span class="name">{shown}</span>
          <span class="size">{T.list.folder}</span>
          <span class="when" />
        </Entry>
      );
    if ('versions' in each)
      return (
        <Entry kind="" href={link('objects', { prefix, q, key: name })} title={name}>
          <span class="name">{shown}</span>
          <span class="size">{T.versions.row}</span>
          <span class="when" />
        </Entry>
      );
    return (
      <Entry kind="" href={link('objects', { prefix, q, key: name })} title={name}>
        <span class="name">{shown}</span>
        <span class="size">{size(each.size)}</span>
        <span class="when" title={time(each.last_modified)}>
          {ago(each.last_modified)}
        </span>
      </Entry>
    );
  };

  return (
    <div class={key ? 'split has-detail' : 'split'}>
      <section
        class={isOver ? 'list over' : 'list'}
        aria-label={T.objects}
        onDragOver={(event) => {
          event.preventDefault();
          setOver(true);
        }}
        onDragLeave={() => setOver(false)}
        onDrop={(event) => {
          event.preventDefault();
          setOver(false);
          if (maySave) uploads.add([...(event.dataTransfer?.files ?? [])]);
        }}
      >
        <div class="place">
          <Crumbs prefix={prefix} />
          {prefix && <div class="tools"><FolderActions prefix={prefix} onDone={again} /></div>}
        </div>
        <div class="tools">
          <Search label={T.list.search} hint={T.list.searchHint} value={q} onChange={(text) => go(link('objects', { ...place.value.query, q: text }), { replace: true })} />
          <button type="button" onClick={again}>
            {T.reload}
          </button>
          {maySave && (
            <button type="button" class="primary" onClick={() => files.current!.click()}>
              {T.upload.button}
            </button>
          )}
          <input
            ref={files}
            type="file"
            multiple
            hidden
            onChange={(event) => {
              uploads.add([...(event.currentTarget.files ?? [])]);
              event.currentTarget.value = '';
            }}
          />
        </div>
        <Uploads uploads={uploads} />
        {listing.error && <Trouble error={listing.error} again={listing.again} />}
        {(!listing.error || listing.rows.length > 0) && (
          <>
            <p class="quiet count" aria-live="polite">
              {q ? T.list.found(rows.length, listing.seen, listing.isDone) : T.list.shown(rows.length, listing.isDone)}
              {q && listing.isLoading && (
                <button type="button" onClick={listing.stop}>
                  {T.list.stop}
                </button>
              )}
            </p>
            <Virtual
              count={rows.length}
              onSeen={onSeen}
              label={T.objects}
              row={row}
              keyOf={(index) => `${'versions' in rows[index]! ? 'v' : ''}${nameOf(rows[index]!)}`}
              more={listing.isDone ? undefined : listing.more}
              selected={marked}
              onMove={setMarked}
              onOpen={open}
            />
            {!rows.length && listing.isDone && <p class="empty">{q ? T.list.nothing : T.list.empty}</p>}
          </>
        )}
        {isOver && maySave && <p class="drop">{T.upload.drop(prefix)}</p>}
      </section>
      <section class="detail" aria-label={T.object.details}>
        {key ? (
          <ObjectPane
            key={key}
            objectKey={key}
            onChange={again}
            onClose={() => {
              go(link('objects', { prefix, q }));
              setTimeout(focusContent);
            }}
          />
        ) : (
          <p class="empty">{T.list.pick}</p>
        )}
      </section>
    </div>
  );
}

function Crumbs({ prefix }: { prefix: string }) {
  const parts = prefix.split('/').slice(0, -1);
  return (
    <nav class="crumbs" aria-label={T.list.folder}>
      <a href={link('objects')}>{T.list.root}</a>
      {parts.map((part, at) => (
        <>
          {' / '}
          <a href={link('objects', { prefix: `${parts.slice(0, at + 1).join('/')}/` })}>{part || '(empty)'}</a>
        </>
      ))}
    </nav>
  );
}
