// JSON as a tree that opens on demand, with a search of names and values.

import { useMemo, useState } from 'preact/hooks';
import { isParent } from '../exact';
import { T } from '../texts';

type Path = string;
const SHOWN_CHILDREN = 200;
/** What is below is found by hand alone: the search must not exhaust the stack. */
const DEEPEST = 200;

const childrenOf = (value: object): [string, unknown][] => Object.entries(value);

/** The paths of what matches, and of what leads there. */
function search(value: unknown, text: string): Set<Path> | null {
  if (!text) return null;
  const wanted = text.toLowerCase();
  const found = new Set<Path>();
  const visit = (at: unknown, name: string, path: Path, depth: number): boolean => {
    let matches = name.toLowerCase().includes(wanted);
    if (isParent(at) && depth < DEEPEST) {
      for (const [child, inner] of childrenOf(at)) if (visit(inner, child, `${path}/${child}`, depth + 1)) matches = true;
    } else if (!isParent(at) && (typeof at === 'string' ? at : JSON.stringify(at)).toLowerCase().includes(wanted)) {
      matches = true;
    }
    if (matches) found.add(path);
    return matches;
  };
  visit(value, '', '', 0);
  return found;
}

/** What is seen at a glance needs no search. */
export const isLong = (value: unknown): boolean => JSON.stringify(value).length > 500;

export function JsonTree({ value, hasSearch = true }: { value: unknown; hasSearch?: boolean }) {
  const [text, setText] = useState('');
  const found = useMemo(() => search(value, text), [value, text]);
  return (
    <div class="json">
      {hasSearch && (
        <input
          type="search"
          aria-label={T.object.searchTree}
          placeholder={T.object.searchTree}
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
        />
      )}
      {found?.size === 0 ? <p class="quiet">{T.object.noMatch}</p> : <Node name="" value={value} path="" depth={0} found={found} />}
    </div>
  );
}

interface NodeProps {
  name: string;
  value: unknown;
  path: Path;
  depth: number;
  found: Set<Path> | null;
}

function Node({ name, value, path, depth, found }: NodeProps) {
  const [chosen, setOpen] = useState<boolean | null>(null);
  const [shown, setShown] = useState(SHOWN_CHILDREN);
  const label = name && <span class="name">{name}: </span>;
  if (!isParent(value)) {
    const kind = value === null ? 'null' : typeof value === 'object' ? 'number' : typeof value;
    return (
      <div class="leaf">
        {label}
        <span class={`value ${kind}`}>{JSON.stringify(value)}</span>
      </div>
    );
  }
  const children = childrenOf(value).filter(([child]) => !found || found.has(`${path}/${child}`));
  const isOpen = chosen ?? (found !== null || depth < 2);
  const [before, after] = Array.isArray(value) ? '[]' : '{}';
  return (
    <details open={isOpen} onToggle={(event) => event.currentTarget.open !== isOpen && setOpen(event.currentTarget.open)}>
      <summary>
        {label}
        <span class="quiet">
          {before} {childrenOf(value).length} {after}
        </span>
      </summary>
      {isOpen && (
        <div class="children">
          {children.slice(0, shown).map(([child, inner]) => (
            <Node key={child} name={child} value={inner} path={`${path}/${child}`} depth={depth + 1} found={found} />
          ))}
          {children.length > shown && (
            <button type="button" onClick={() => setShown(shown * 5)}>
              + {children.length - shown}
            </button>
          )}
        </div>
      )}
    </details>
  );
}
