// A field that is acted on after a pause of the fingers.

import { useEffect, useRef, useState } from 'preact/hooks';

interface Props {
  label: string;
  value: string;
  hint?: string;
  onChange: (text: string) => void;
}

export function Search({ label, value, hint, onChange }: Props) {
  const [text, setText] = useState(value);
  // What else has been asked for meanwhile is not undone.
  const latest = useRef(onChange);
  latest.current = onChange;
  /** What this field has asked for itself: it has been typed on since. */
  const sent = useRef(value);
  useEffect(() => {
    if (value === sent.current) return;
    sent.current = value;
    setText(value);
  }, [value]);
  useEffect(() => {
    const wanted = text.trim();
    if (wanted === sent.current) return undefined;
    const timer = setTimeout(() => {
      sent.current = wanted;
      latest.current(wanted);
    }, 300);
    return () => clearTimeout(timer);
  }, [text]);
  return (
    <input
      type="search"
      class="filter"
      aria-label={label}
      placeholder={label}
      title={hint}
      value={text}
      onInput={(event) => setText(event.currentTarget.value)}
    />
  );
}
