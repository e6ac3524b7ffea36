// One message of a conversation.

import { useMemo } from 'preact/hooks';
import type { Entry } from '../model';
import { JsonTree } from '../objects/json';
import { Markdown } from '../objects/markdown';
import { ago, T, time } from '../texts';

interface Props {
  entry: Entry;
  /** Leads to where it was said. */
  onOpen?: ((position: number) => void) | undefined;
}

/** Frameworks say it in different words; what is neither is shown as it is. */
export function Message({ entry, onOpen }: Props) {
  // Thousands of them are not made anew whenever one is added.
  return useMemo(() => <Said entry={entry} onOpen={onOpen} />, [entry]);
}

function Said({ entry, onOpen }: Props) {
  const { role, type, name, author, content, text, ...others } = entry.message;
  const who = [role, name, author, type].find((each) => typeof each === 'string') as string | undefined;
  const said = textOf(content) ?? textOf(text);
  return (
    <li data-position={entry.position} class={who === 'user' || who === 'human' ? 'mine' : undefined}>
      <small>
        {entry.position} · <b>{who ?? T.conversations.somebody}</b> · <span title={time(entry.at)}>{ago(entry.at)}</span>
      </small>
      {said !== undefined && <Markdown text={said} />}
      {(said === undefined || Object.keys(others).some((each) => each !== 'id' && each !== 'timestamp')) && (
        <JsonTree value={said === undefined ? entry.message : others} hasSearch={false} />
      )}
      {onOpen && <button type="button" class="link" onClick={() => onOpen(entry.position)}>{T.conversations.there(entry.position)}</button>}
    </li>
  );
}

function textOf(content: unknown): string | undefined {
  if (typeof content === 'string') return content;
  if (!Array.isArray(content)) return undefined;
  const parts = content.map((each: unknown) => (typeof each === 'string' ? each : (each as { text?: unknown } | null)?.text));
  return parts.every((each) => typeof each === 'string') ? parts.join('\n\n') : undefined;
}
