// Search by name: part of a name, or a pattern as shells know it.

/** Whether a key matches; a pattern without `*`, `?` or `[` is looked for anywhere in it, in either case. */
export function matcher(pattern: string): (key: string) => boolean {
  if (!/[*?[]/.test(pattern)) {
    const part = pattern.toLowerCase();
    return (key) => key.toLowerCase().includes(part);
  }
  let source = '';
  for (let at = 0; at < pattern.length; at += 1) {
    const sign = pattern[at]!;
    if (sign === '*' && pattern[at + 1] === '*') {
      at += 1;
      if (pattern[at + 1] === '/') {
        at += 1;
        source += '(?:.*/)?';
      } else {
        source += '.*';
      }
    } else if (sign === '*') {
      source += '[^/]*';
    } else if (sign === '?') {
      source += '[^/]';
    } else if (sign === '[' && pattern.includes(']', at + 2)) {
      const end = pattern.indexOf(']', at + 2);
      const inner = pattern.slice(at + 1, end).replace(/^!/, '^').replace(/[\\[\]]/g, '\\$&');
      source += `[${inner}]`;
      at = end;
    } else {
      source += sign.replace(/[.+^${}()|\\[\]]/g, '\\$&');
    }
  }
  // Without a slash the pattern is one of the last part of a name.
  const whole = new RegExp(pattern.includes('/') ? `^${source}$` : `(?:^|/)${source}$`, 'us');
  return (key) => whole.test(key);
}

export const folderOf = (key: string): string => key.slice(0, key.lastIndexOf('/', key.length - 2) + 1);
