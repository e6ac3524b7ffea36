// Filters under a name, kept by this browser.

import { useState } from 'preact/hooks';
import { go, link } from '../router';
import { T } from '../texts';
import { Dialog } from '../ui/dialog';
import type { Filters } from './view';

const NAME = 'agent-storage-task-views';

function kept(): Record<string, Filters> {
  try {
    return JSON.parse(localStorage.getItem(NAME) ?? '{}') as Record<string, Filters>;
  } catch {
    return {};
  }
}

export function SavedViews({ filters }: { filters: Filters }) {
  const [views, setViews] = useState(kept);
  const [name, setName] = useState<string>();
  const keep = (changed: Record<string, Filters>) => {
    localStorage.setItem(NAME, JSON.stringify(changed));
    setViews(changed);
  };
  const told = JSON.stringify(filters);
  const current = Object.keys(views).find((each) => JSON.stringify(views[each]) === told);
  return (
    <>
      {Object.keys(views).length > 0 && (
        <select
          aria-label={T.tasks.views}
          value={current ?? ''}
          onChange={(event) => go(link('tasks', views[event.currentTarget.value] ?? {}))}
        >
          <option value="">{T.tasks.views}</option>
          {Object.keys(views).map((each) => <option key={each} value={each}>{each}</option>)}
        </select>
      )}
      {current ? (
        <button
          type="button"
          onClick={() => {
            const { [current]: _, ...others } = views;
            keep(others);
          }}
        >
          {T.tasks.forgetView}
        </button>
      ) : (
        told !== '{}' && <button type="button" onClick={() => setName('')}>{T.tasks.saveView}</button>
      )}
      {name !== undefined && (
        <Dialog
          title={T.tasks.saveView}
          onClose={() => setName(undefined)}
          onSubmit={() => {
            if (!name.trim()) return;
            keep({ ...views, [name.trim()]: filters });
            setName(undefined);
          }}
        >
          <label>
            {T.tasks.viewName}
            <input value={name} onInput={(event) => setName(event.currentTarget.value)} />
          </label>
        </Dialog>
      )}
    </>
  );
}
