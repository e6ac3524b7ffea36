// Markdown as elements, never as HTML: what is stored cannot bring tags, scripts or addresses of its own kind.

import type { ComponentChildren } from 'preact';

// Each part is bounded, so that no text takes longer than its length.
const SPANS = /`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|\[([^\[\]]{1,1000})\]\((https?:\/\/[^\s()]{1,2000})\)/g;

function spans(text: string): ComponentChildren[] {
  const parts: ComponentChildren[] = [];
  let last = 0;
  for (const match of text.matchAll(SPANS)) {
    parts.push(text.slice(last, match.index));
    const [whole, code, strong, emphasis, label, url] = match;
    if (code) parts.push(<code>{code}</code>);
    else if (strong) parts.push(<strong>{spans(strong)}</strong>);
    else if (emphasis) parts.push(<em>{spans(emphasis)}</em>);
    else
      parts.push(
        <a href={url!} rel="noopener noreferrer" target="_blank">
          {label}
        </a>,
      );
    last = match.index + whole.length;
  }
  parts.push(text.slice(last));
  return parts;
}

const ROW = /^\s*\|.*\|\s*$/;
const RULE = /^\s*\|[-:| ]*-[-:| ]*\|\s*$/;

const cells = (row: string): string[] => row.trim().slice(1, -1).split('|').map((each) => each.trim());

export function Markdown({ text }: { text: string }) {
  const blocks: ComponentChildren[] = [];
  const lines = text.replace(/\r\n?/g, '\n').split('\n');
  let at = 0;
  const take = (while_: (line: string) => boolean): string[] => {
    const from = at;
    while (at < lines.length && while_(lines[at]!)) at += 1;
    return lines.slice(from, at);
  };
  while (at < lines.length) {
    const line = lines[at]!;
    const heading = /^(#{1,6})\s+(.*)$/.exec(line);
    if (/^(```|~~~)/.test(line)) {
      const fence = line.slice(0, 3);
      at += 1;
      blocks.push(<pre>{take((each) => !each.startsWith(fence)).join('\n')}</pre>);
      at += 1;
    } else if (heading) {
      // Below the page's own headings.
      const Heading = `h${Math.min(6, heading[1]!.length + 2)}` as 'h3';
      blocks.push(<Heading>{spans(heading[2]!)}</Heading>);
      at += 1;
    } else if (/^\s*[-*+]\s/.test(line)) {
      const items = take((each) => /^\s*[-*+]\s/.test(each));
      blocks.push(<ul>{items.map((each) => <li>{spans(each.replace(/^\s*[-*+]\s+/, ''))}</li>)}</ul>);
    } else if (/^\s*\d+[.)]\s/.test(line)) {
      const items = take((each) => /^\s*\d+[.)]\s/.test(each));
      blocks.push(<ol>{items.map((each) => <li>{spans(each.replace(/^\s*\d+[.)]\s+/, ''))}</li>)}</ol>);
    } else if (/^>/.test(line)) {
      blocks.push(<blockquote>{spans(take((each) => /^>/.test(each)).map((each) => each.replace(/^>\s?/, '')).join(' '))}</blockquote>);
    } else if (ROW.test(line) && RULE.test(lines[at + 1] ?? '')) {
      const [head, , ...rows] = take((each) => ROW.test(each)).map(cells);
      blocks.push(
        <table>
          <thead><tr>{head!.map((each) => <th scope="col">{spans(each)}</th>)}</tr></thead>
          <tbody>{rows.map((row) => <tr>{row.map((each) => <td>{spans(each)}</td>)}</tr>)}</tbody>
        </table>,
      );
    } else if (!line.trim()) {
      at += 1;
    } else {
      const words = take((each) => !!each.trim() && !/^(#{1,6}\s|```|~~~|>|\s*[-*+]\s|\s*\d+[.)]\s)/.test(each));
      // A line that only looks like the beginning of a block is text.
      blocks.push(<p>{spans((words.length ? words : [lines[at++]!]).join(' '))}</p>);
    }
  }
  return <div class="page">{blocks}</div>;
}
