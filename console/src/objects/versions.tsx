// The versions of an object, what has changed between them, and the way back.

import { useState } from 'preact/hooks';
import { ApiError, json } from '../api';
import { useLoaded } from '../load';
import type { VersionPage } from '../model';
import { may } from '../rights';
import { go, link, place } from '../router';
import { size, T, time } from '../texts';
import { fail, tell, Trouble } from '../ui/notices';

const PAGE = 200;

interface Change {
  op: string;
  path: string;
  value?: unknown;
  from?: string;
}

interface Props {
  objectKey: string;
  /** Whether the object has no value, and what there was is in its versions. */
  isGone?: boolean;
  onChange: () => void;
}

export function Versions({ objectKey, isGone = false, onChange }: Props) {
  const [shown, setShown] = useState(PAGE);
  const { value, error, again } = useLoaded(
    (signal) => json<VersionPage>('GET', 'versions', { query: { key: objectKey, limit: shown }, signal }),
    [objectKey, shown],
  );
  const compared = Number(place.value.query.diff);
  const compare = (number?: number) => go(link('objects', { ...place.value.query, diff: number === undefined ? undefined : String(number) }));
  const none = <p class="empty">{isGone ? T.object.gone : T.versions.none}</p>;
  if (error instanceof ApiError && (error.status === 404 || (isGone && error.status < 500))) return none;
  if (error) return <Trouble error={error} again={again} />;
  if (!value) return <p class="quiet">{T.loading}</p>;
  if (!value.versions.length) return none;
  const rollback = async (number: number) => {
    try {
      await json('PATCH', 'versions', { query: { key: objectKey }, json: { current: number } });
      tell(T.versions.rolledBack(number));
      again();
      onChange();
    } catch (problem) {
      fail(problem);
    }
  };
  return (
    <>
    {isGone && <p class="banner" role="alert">{T.versions.deleted}{may('save', objectKey) && ` ${T.versions.bringBack}`}</p>}
    <table class="versions">
      <thead>
        <tr>
          <th scope="col">{T.versions.number}</th>
          <th scope="col">{T.versions.saved}</th>
          <th scope="col">{T.list.size}</th>
          <th scope="col">{T.versions.labels}</th>
          <td />
        </tr>
      </thead>
      <tbody>
        {value.versions.map((each, at) => {
          const before = value.versions[at + 1];
          return (
            <>
              <tr key={each.number}>
                <td><a href={link('objects', { ...place.value.query, key: `${objectKey}/v${each.number}`, tab: undefined, diff: undefined })}>{each.number}</a></td>
                <td>{time(each.saved_at)}{each.saved_by && <small>{each.saved_by}</small>}</td>
                <td>{size(each.size)}</td>
                <td>
                  {each.is_current && <span class="badge">{T.versions.current}</span>}
                  {each.labels.map((label) => <span class="badge">{label}</span>)}
                </td>
                <td class="tools">
                  {before && (
                    <button type="button" aria-label={T.versions.compareTo} title={T.versions.compareTo} aria-expanded={compared === each.number} onClick={() => compare(compared === each.number ? undefined : each.number)}>
                      {T.versions.compare}
                    </button>
                  )}
                  {!each.is_current && may('save', objectKey) && <button type="button" onClick={() => void rollback(each.number)}>{T.versions.rollback}</button>}
                </td>
              </tr>
              {compared === each.number && before && (
                <tr>
                  <td colSpan={5}>
                    <Difference objectKey={objectKey} from={before.number} to={each.number} />
                  </td>
                </tr>
              )}
            </>
          );
        })}
      </tbody>
    </table>
    {value.cursor && shown < 1000 && <button type="button" onClick={() => setShown(1000)}>{T.tables.more}</button>}
    <p class="quiet"><a href={link('objects', { prefix: `${objectKey}/` })}>{T.versions.below(objectKey)}</a></p>
    </>
  );
}

function Difference({ objectKey, from, to }: { objectKey: string; from: number; to: number }) {
  const { value, error, again } = useLoaded(
    (signal) => json<Change[]>('GET', 'versions', { query: { key: objectKey, version: to, diff: from }, signal }),
    [objectKey, from, to],
  );
  if (error instanceof ApiError && error.status < 500) return <p class="quiet">{T.versions.noDiff} {error.message}</p>;
  if (error) return <Trouble error={error} again={again} />;
  if (!value) return <p class="quiet">{T.loading}</p>;
  if (!value.length) return <p class="quiet">{T.versions.same}</p>;
  return (
    <ul class="difference">
      {value.map((each) => (
        <li class={each.op}>
          <b>{each.op}</b> <code>{each.path || '/'}</code> {each.from ? <code>{each.from}</code> : 'value' in each && <code>{JSON.stringify(each.value)}</code>}
        </li>
      ))}
    </ul>
  );
}
