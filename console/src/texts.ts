// Every text that a user reads, in one place.

export const numbers = new Intl.NumberFormat('en');

export const count = (n: number, one: string, many = `${one}s`): string => `${numbers.format(n)} ${n === 1 ? one : many}`;

export const UNITS = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

export function size(bytes: number | null | undefined): string {
  if (bytes === null || bytes === undefined) return '';
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  if (unit === 0) return count(bytes, 'byte');
  return `${value.toFixed(value < 10 ? 1 : 0)} ${UNITS[unit]}`;
}

const times = new Intl.DateTimeFormat('en-GB', {
  year: 'numeric',
  month: 'short',
  day: 'numeric',
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  timeZoneName: 'short',
});

export const time = (iso: string | null | undefined): string => (iso ? times.format(new Date(iso)) : '');

const STEPS: [number, Intl.RelativeTimeFormatUnit][] = [
  [60, 'second'],
  [60, 'minute'],
  [24, 'hour'],
  [30, 'day'],
  [12, 'month'],
  [Infinity, 'year'],
];
const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });

export function ago(iso: string | null | undefined, now = Date.now()): string {
  if (!iso) return '';
  let value = (new Date(iso).getTime() - now) / 1000;
  for (const [step, unit] of STEPS) {
    if (Math.abs(value) < step) return relative.format(Math.round(value), unit);
    value /= step;
  }
  return '';
}

const PROVIDERS: Record<string, string> = { aad: 'Microsoft', apple: 'Apple', facebook: 'Facebook', github: 'GitHub', google: 'Google', twitter: 'X' };

/** Of answers that a proxy or the platform gives, which say nothing themselves. */
const REMEDIES: Record<number, string> = {
  403: 'You may not do this, or not from where you are.',
  404: 'Nothing is there. Is the app deployed, and this its address?',
  413: 'It is too large for what is between you and the app.',
  429: 'There were too many calls; try again in a moment.',
  500: 'Try again in a moment; the app’s log says why.',
};

export const T = {
  title: 'Agent storage',
  skip: 'Skip to content',
  navigation: 'Views',
  objects: 'Objects',
  close: 'Close',
  cancel: 'Cancel',
  save: 'Save',
  reload: 'Reload',
  loading: 'Loading…',
  more: 'more are being loaded',
  tryAgain: 'Try again',
  copied: 'Copied',
  copy: 'Copy',
  noNumber: (name: string): string => `“${name}” must be a number.`,
  notYours: 'You have no right to anything here.',
  unsaved: 'What you have changed is not saved. Leave it?',
  broken: 'This cannot be shown.',
  theme: { label: 'Colours', auto: 'As the system', light: 'Light', dark: 'Dark' },
  key: {
    button: 'Key',
    title: 'Function key',
    why: 'The app asks for a key. It is kept in this tab alone, until the tab is closed.',
    label: 'Key',
    use: 'Use this key',
    forget: 'Forget the key',
    refused: 'The app did not accept the key.',
    noKey: 'This is no key: it has a sign that no key has.',
    signIn: 'Sign in',
    signInBy: (provider: string): string => `Sign in with ${PROVIDERS[provider] ?? provider}`,
    signOut: 'Sign out',
    needed: 'Sign in, or give a key.',
    signInWhy: 'Your sign-in is missing, or has ended.',
  },
  refused: (status: number): string => {
    if (!status) return T.unreachable;
    const remedy = REMEDIES[status] ?? (status >= 500 ? REMEDIES[500] : undefined);
    return `The call was answered with ${status}.${remedy ? ` ${remedy}` : ''}`;
  },
  unreachable: 'The app does not answer. Is it running?',
  away: 'The app does not answer. What is shown may be out of date; what you have typed is kept. The page goes on by itself once the app answers.',
  stale: (why: string): string => `What is shown may be out of date: ${why}`,
  list: {
    root: 'All objects',
    search: 'Search names',
    badPattern: (pattern: string): string => `“${pattern}” is no pattern: what its brackets hold is no range, as in [a-z].`,
    searchHint: 'Part of a name, or a pattern: *.json, agents/**/config.json',
    empty: 'There is nothing here yet. Drop files here, or use “Upload”.',
    nothing: 'No name matches.',
    name: 'Name',
    size: 'Size',
    changed: 'Changed',
    folder: 'Folder',
    found: (n: number, seen: number, done: boolean): string =>
      `${count(n, 'match', 'matches')} among ${count(seen, 'name')}${done ? '' : ' so far'}`,
    shown: (n: number, done: boolean): string => `${count(n, 'entry', 'entries')}${done ? '' : ' so far'}`,
    stop: 'Stop',
    pick: 'Choose an object to see it.',
  },
  upload: {
    button: 'Upload',
    drop: (prefix: string): string => `Drop files to save them ${prefix ? `below ${prefix}` : 'at the top'}`,
    saving: (name: string, part: number): string => `${name}: ${Math.round(part * 100)} %`,
    saved: (name: string): string => `${name} was saved`,
    exists: (name: string): string => `${name} exists already. Replace it?`,
    replace: 'Replace',
    cancelled: (name: string): string => `${name}: stopped`,
  },
  object: {
    preview: 'Preview',
    details: 'Details',
    versions: 'Versions',
    download: 'Download',
    edit: 'Edit',
    remove: 'Delete',
    copyTo: 'Copy',
    moveTo: 'Move',
    gone: 'This object does not exist, or not any more.',
    type: 'Type',
    etag: 'ETag',
    sha256: 'SHA-256',
    expires: 'Ends',
    forEver: 'never',
    metadata: 'Metadata',
    metadataHint: 'One “name: value” a line; names are lower-case letters, digits and hyphens.',
    badMetadata: (line: string): string => `“${line}” is not “name: value”.`,
    ttl: 'Time to live in seconds',
    ttlHint: 'Empty: it stays for ever.',
    removeTitle: (key: string): string => `Delete ${key}?`,
    removeText: 'It cannot be brought back. Its versions are kept.',
    removed: (key: string): string => `${key} was deleted`,
    saved: (key: string): string => `${key} was saved`,
    conflict: 'Somebody else has changed this object since you opened it. Your text is still here, theirs is below.',
    theirs: 'Theirs',
    theirsGone: 'They have deleted it.',
    theirsNoText: 'It is no text any more.',
    takeTheirs: 'Show theirs',
    overwrite: 'Save mine over theirs',
    badJson: (why: string): string => `This is not JSON: ${why}`,
    target: 'New key',
    tooLarge: (bytes: number, limit: number): string =>
      `It has ${size(bytes)}; the first ${size(limit)} are shown.`,
    cutTable: (rows: number, columns: number): string => `At most ${rows} rows and ${columns} columns are shown.`,
    asText: 'Text',
    asHex: 'Bytes',
    asTable: 'Table',
    asJson: 'Tree',
    asPage: 'Page',
    asImage: 'Image',
    searchTree: 'Search names and values',
    noMatch: 'Nothing matches.',
  },
  folder: {
    actions: 'Folder',
    copy: 'Copy folder',
    move: 'Move folder',
    remove: 'Delete folder',
    target: 'New prefix',
    dryRun: 'Count first',
    would: (n: number, skipped: number): string =>
      `${count(n, 'object')} would be affected${skipped ? `, ${numbers.format(skipped)} skipped` : ''}.`,
    did: (n: number, failures: number): string =>
      `${count(n, 'object')} done${failures ? `, ${count(failures, 'failure')}` : ''}.`,
    stopped: 'Stopped before the end.',
    wouldFail: (n: number): string => `${count(n, 'object')} could not be:`,
    go: { copy: 'Copy', move: 'Move', delete: 'Delete' },
    warn: { copy: '', move: '', delete: 'They cannot be brought back.' },
  },
  versions: {
    none: 'This object has no versions. Save one with POST /api/versions, or save_versioned in Python.',
    number: 'Version',
    saved: 'Saved',
    by: 'By',
    labels: 'Labels',
    current: 'current',
    alone: (n: number): string => `Version ${n}, the current one. This object is kept as versions alone.`,
    deleted: 'This object was deleted: none of its versions is the current one.',
    bringBack: '“Make current” brings one back.',
    below: (key: string): string => `What else is below ${key}/`,
    row: 'Versions',
    compare: 'Changes',
    compareTo: 'Changes since the one before',
    rollback: 'Make current',
    rolledBack: (n: number): string => `Version ${n} is the current one`,
    noDiff: 'Only JSON can be compared.',
    same: 'Nothing has changed.',
  },
  tasks: {
    title: 'Tasks',
    all: 'All',
    submit: 'Submit a task',
    status: 'Status',
    action: 'Action',
    agent: 'Agent',
    created: 'Created',
    took: 'Took',
    attempts: 'Attempts',
    parent: 'Parent',
    correlation: 'Correlation',
    none: 'There are no such tasks.',
    pick: 'Choose a task to see it.',
    views: 'Saved views',
    saveView: 'Save this view',
    viewName: 'Name of the view',
    forgetView: 'Forget this view',
    cancel: 'Cancel',
    retry: 'Retry',
    editAndRetry: 'Edit and retry',
    remove: 'Delete record',
    bulkCancel: 'Cancel all of these',
    bulkRetry: 'Retry all of these',
    bulk: (n: number, isMore: boolean): string => `${count(n, 'task')}${isMore ? ' or more' : ''} would be changed.`,
    bulkDone: (n: number, failures: number): string =>
      `${count(n, 'task')} changed${failures ? `, ${numbers.format(failures)} not` : ''}.`,
    countFirst: 'Count first',
    narrow: 'Choose a status, an action or an agent first.',
    cancelled: 'The task was asked to stop',
    retried: 'The task runs again',
    removed: 'The record was deleted',
    submitted: (id: string): string => `Task ${id} was submitted`,
    gone: 'This task does not exist, or its record has been removed.',
    payload: 'Payload',
    result: 'Result',
    error: 'Error',
    traceback: 'Traceback',
    progress: 'Progress',
    timeline: 'Timeline',
    waiting: 'waits',
    again: 'next attempt',
    children: 'Children',
    childrenOf: (total: number, ended: number, failed: number): string =>
      `${numbers.format(ended)} of ${numbers.format(total)} ended${failed ? `, ${numbers.format(failed)} failed` : ''}`,
    showChildren: 'Show them',
    raw: 'The message, which nobody could read',
    facts: 'Facts',
    priority: 'Priority',
    submitter: 'Submitted by',
    due: 'Not before',
    key: 'Idempotency key',
    stopping: 'It was asked to stop.',
    omitted: 'Too large to be shown here',
    delay: 'Delay in seconds',
    asJson: 'As JSON',
    asForm: 'As a form',
    badPayload: (why: string): string => `The payload is not JSON: ${why}`,
    required: (name: string): string => `${name} is required.`,
    badField: (name: string): string => `What ${name} holds is no value of its kind.`,
    give: (name: string): string => `Give ${name}`,
    add: (name: string): string => `Add to ${name}`,
    leaveOut: (name: string): string => `Leave out ${name}`,
    variant: (name: string): string => `Kind of ${name}`,
    noPayload: 'No payload',
    overTime: (from: string, to: string): string => `Tasks by the time they were created, ${from} to ${to}`,
  },
  names: {
    own: (owner: string): string => `of the app: ${owner}`,
    filter: 'Filter names',
    none: 'There are none yet.',
  },
  conversations: {
    title: 'Conversations',
    pick: 'Choose a conversation to read it.',
    none: 'There are no such conversations.',
    participant: 'Participant',
    topic: 'Topic',
    prefix: 'Id begins with',
    count: (n: number): string => count(n, 'message'),
    search: 'Search messages',
    searched: (n: number, among: number, done: boolean): string => `${count(n, 'message')} found among ${numbers.format(among)}${done ? '' : ' so far'}`,
    firstOf: (n: number): string => `The first ${numbers.format(n)} are shown.`,
    there: (position: number): string => `Show message ${numbers.format(position)} where it was said`,
    earlier: 'Load earlier messages',
    later: 'Load later messages',
    newest: 'To the newest',
    fork: 'Fork',
    forkTitle: (id: string): string => `Fork ${id}`,
    forkTo: 'New id',
    forkUntil: 'Up to message (empty: all)',
    forked: (id: string): string => `${id} was made`,
    export: 'Export',
    remove: 'Delete',
    removeTitle: (id: string): string => `Delete ${id} with all its messages?`,
    removed: (id: string): string => `${id} was deleted`,
    gone: 'This conversation does not exist, or not any more.',
    somebody: 'message',
    ends: (when: string): string => `ends ${when}`,
  },
  overview: {
    title: 'Overview',
    health: 'Health',
    tasks: 'Tasks',
    quotas: 'Storage by prefix',
    of: (used: string, most: string): string => (most ? `${used} of ${most}` : used),
    objects: (n: number): string => count(n, 'object'),
    metricsOff: 'Metrics are off. AGENT_STORAGE_METRICS=true turns them on, and charts appear here.',
    ready: 'The storage answers.',
    degraded: 'The second store answers, the first does not.',
    unavailable: 'Tables and queues do not answer; tasks wait.',
    pending: (n: number): string => `${count(n, 'object')} wait to be brought back to the first store.`,
    dead: (n: number): string => `${count(n, 'task')} could not be run.`,
    failed: (n: number): string => `${count(n, 'task')} failed.`,
    look: 'Look at them',
    waits: 'Queues of tasks',
    stuck: (queue: string, since: string): string => `The next message of ${queue} came ${since} and still waits.`,
    poison: (queue: string): string => `${queue} has messages that nobody could work on.`,
    late: (since: string): string => `Maintenance does not run: what is stored was measured last ${since}.`,
    lateCommand: 'AzureWebJobs.measure_sizes.Disabled turns it off; the app’s log says why it fails.',
    sizesOff: 'What is stored is measured with AGENT_STORAGE_METRICS=true.',
    sizesSoon: 'What is stored is measured within the hour.',
    measured: (when: string, all: string): string => `${all} in all, measured ${when}.`,
    stored: (unit: string): string => `Stored, in ${unit}`,
    all: 'all',
    table: 'Size and growth of each prefix',
    prefix: 'Prefix',
    objectCount: 'Objects',
    growth: 'In a day',
    names: { '*': 'all others', '.system/': 'the app’s own' } as Record<string, string>,
    quota: (prefix: string): string => `${prefix || 'The store'} is nearly full.`,
    command: 'agent-storage doctor says more.',
    quotaCommand: (prefix: string): string => `agent-storage du ${prefix}`.trim(),
    requests: 'Storage operations a second',
    latency: 'Their latency in ms: median, 95 % and 99 %',
    errors: 'Failed operations a second',
    cache: 'Cache hits in %',
    taskRate: 'Tasks a minute',
    waiting: 'Charts begin with this visit; the first points come within seconds.',
  },
  queues: {
    title: 'Queues',
    pick: 'Choose a queue to see its messages.',
    length: 'Messages',
    oldest: 'Oldest',
    since: (when: string): string => `The next one is there since ${when}.`,
    empty: 'No message is visible.',
    peeked: 'The next messages. Looking at them does not change them.',
    received: (n: number): string => `received ${count(n, 'time')}`,
    send: 'Send a message',
    body: 'Text',
    ttl: 'Time to live in seconds (empty: for ever)',
    sent: 'The message was sent',
    dead: 'Tasks that could not be run are in the task list, from where they can be run again.',
    showDead: 'Show dead tasks',
  },
  tables: {
    title: 'Tables',
    pick: 'Choose a table to see its entities.',
    filter: 'Filter (OData)',
    filterHint: "PartitionKey eq 'a' and tokens gt 100",
    select: 'Properties, separated by commas',
    run: 'Query',
    cut: (shown: number, all: number): string => `The first ${shown} of ${numbers.format(all)} properties are shown; name others in “Properties”.`,
    none: 'No entity matches.',
    more: 'Load more',
    etag: 'ETag',
    removed: 'The entity was deleted',
    saved: 'The entity was saved',
    removeTitle: (place: string): string => `Delete the entity ${place}?`,
  },
  states: {
    queued: 'queued',
    running: 'running',
    succeeded: 'succeeded',
    failed: 'failed',
    dead: 'dead',
    cancelled: 'cancelled',
  },
};

export function duration(from: string | null | undefined, to: string | null | undefined): string {
  if (!from) return '';
  const seconds = ((to ? new Date(to).getTime() : Date.now()) - new Date(from).getTime()) / 1000;
  if (seconds < 1) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}
