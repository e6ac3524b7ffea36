// The messages of a conversation, page by page, however many there are.

import { json } from '../api';
import type { ConversationRead, Entry } from '../model';

const PAGE = 1000;

export const read = (id: string, query: Record<string, number>, signal?: AbortSignal) =>
  json<ConversationRead>('GET', 'conversations', { query: { key: id, ...query }, ...(signal ? { signal } : {}) });

/** All of them, oldest first. */
export async function* every(id: string, signal?: AbortSignal): AsyncGenerator<Entry[]> {
  for (let after = 0; ; ) {
    const { entries, conversation } = await read(id, { after, limit: PAGE }, signal);
    if (!entries.length) return;
    yield entries;
    after = entries.at(-1)!.position;
    if (after >= conversation.position) return;
  }
}

/** As JSON Lines. The browser holds the parts, not one text of them all. */
export async function download(id: string): Promise<void> {
  const parts: Blob[] = [];
  for await (const entries of every(id)) parts.push(new Blob(entries.map((each) => `${JSON.stringify(each)}\n`)));
  const url = URL.createObjectURL(new Blob(parts, { type: 'application/jsonl' }));
  const anchor = document.createElement('a');
  anchor.href = url;
  anchor.download = `${id.split('/').pop() || 'conversation'}.jsonl`;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
