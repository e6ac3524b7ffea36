// A list of which only the rows in sight are in the page: 100,000 stay fluid.

import type { ComponentChildren } from 'preact';
import { go } from '../router';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';

const ROW = 32;
const BEYOND = 12;

/** What a row shows and where it leads. An option of a list holds no link, so it does by itself what a link does. */
export function Entry({ kind, href, title, children }: { kind: string; href: string; title?: string; children: ComponentChildren }) {
  return (
    <div
      class={`entry ${kind}`}
      title={title}
      onClick={(event) => (event.ctrlKey || event.metaKey || event.shiftKey ? window.open(href) : go(href))}
      onAuxClick={(event) => event.button === 1 && window.open(href)}
    >
      {children}
    </div>
  );
}

interface Props {
  count: number;
  label: string;
  row: (index: number) => ComponentChildren;
  keyOf: (index: number) => string;
  /** Called when the last row is near. */
  more?: (() => void) | undefined;
  selected?: number | undefined;
  onMove?: (index: number) => void;
  onOpen?: (index: number) => void;
  /** Which rows are in sight. */
  onSeen?: (first: number, last: number) => void;
}

export function Virtual({ count, label, row, keyOf, more, selected, onMove, onOpen, onSeen }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const [seen, setSeen] = useState({ top: 0, height: 800 });
  useLayoutEffect(() => {
    const element = box.current!;
    const look = () => setSeen({ top: element.scrollTop, height: element.clientHeight });
    const watch = new ResizeObserver(look);
    watch.observe(element);
    let frame = 0;
    const scrolled = () => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        look();
      });
    };
    element.addEventListener('scroll', scrolled, { passive: true });
    return () => {
      watch.disconnect();
      cancelAnimationFrame(frame);
      element.removeEventListener('scroll', scrolled);
    };
  }, []);
  const first = Math.max(0, Math.floor(seen.top / ROW) - BEYOND);
  const last = Math.min(count, Math.ceil((seen.top + seen.height) / ROW) + BEYOND);
  useEffect(() => onSeen?.(first, last), [first, last]);
  useEffect(() => {
    if (more && last >= count - 50) more();
  }, [last, count, more]);
  useEffect(() => {
    const element = box.current!;
    if (selected === undefined || selected < 0) return;
    if (selected * ROW < element.scrollTop) element.scrollTop = selected * ROW;
    else if ((selected + 1) * ROW > element.scrollTop + element.clientHeight)
      element.scrollTop = (selected + 1) * ROW - element.clientHeight;
  }, [selected]);
  const moved = (event: KeyboardEvent) => {
    const at = selected ?? -1;
    const page = Math.max(1, Math.floor(seen.height / ROW) - 1);
    const steps: Record<string, number> = {
      ArrowDown: at + 1,
      ArrowUp: at - 1,
      PageDown: at + page,
      PageUp: at - page,
      Home: 0,
      End: count - 1,
    };
    const next = steps[event.key];
    if (next !== undefined && onMove) {
      event.preventDefault();
      onMove(Math.max(0, Math.min(count - 1, next)));
    } else if (event.key === 'Enter' && at >= 0 && onOpen) {
      event.preventDefault();
      onOpen(at);
    }
  };
  const rows = [];
  for (let index = first; index < last; index += 1) {
    rows.push(
      <div
        key={keyOf(index)}
        id={`row-${index}`}
        role="option"
        aria-selected={index === selected}
        aria-setsize={more ? -1 : count}
        aria-posinset={index + 1}
        class="row"
        style={{ transform: `translateY(${index * ROW}px)` }}
      >
        {row(index)}
      </div>,
    );
  }
  return (
    <div
      class="virtual"
      ref={box}
      tabIndex={0}
      role="listbox"
      aria-label={label}
      aria-activedescendant={selected !== undefined && selected >= first && selected < last ? `row-${selected}` : undefined}
      onKeyDown={moved}
    >
      <div style={{ height: `${count * ROW}px` }}>{rows}</div>
    </div>
  );
}
