// The frame around every view: navigation, the key, colours, and what is told to the user.

import { Component, type ComponentChildren } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { declineKey, isAway, isKeyWanted, key, providers, returns, signInUrl, signOutUrl, useKey, visit } from './api';
import { Conversations } from './conversations/view';
import { Objects } from './objects/view';
import { isSignedIn, learn, mayBelow, mayUse, operates, principal } from './rights';
import { link, view } from './router';
import { T } from './texts';
import { Overview } from './overview/view';
import { staleness } from './poll';
import { Queues } from './queues/view';
import { Tables } from './tables/view';
import { Tasks } from './tasks/view';
import { theme, type Theme } from './theme';
import { Dialog } from './ui/dialog';
import { Notices, Trouble } from './ui/notices';

const VIEWS = [
  { name: 'overview', title: T.overview.title, show: Overview, isOffered: () => operates.value || mayUse('tasks') },
  { name: 'objects', title: T.objects, show: Objects, isOffered: () => true },
  { name: 'conversations', title: T.conversations.title, show: Conversations, isOffered: () => mayBelow('list', '') || mayBelow('load', '') },
  { name: 'tasks', title: T.tasks.title, show: Tasks, isOffered: () => mayUse('tasks') },
  { name: 'queues', title: T.queues.title, show: Queues, isOffered: () => mayUse('queues') },
  { name: 'tables', title: T.tables.title, show: Tables, isOffered: () => mayUse('tables') },
];

export function App() {
  const [isKeyOpen, setKeyOpen] = useState(false);
  useEffect(() => void learn(), [key.value, returns.value]);
  const current = VIEWS.find((each) => each.name === view.value) ?? VIEWS.find((each) => each.name === 'objects')!;
  return (
    <>
      <a class="skip" href="#content" onClick={(event) => {
        event.preventDefault();
        document.getElementById('content')!.focus();
      }}>
        {T.skip}
      </a>
      <header>
        <h1>{T.title}</h1>
        <nav aria-label={T.navigation}>
          {VIEWS.filter((each) => each.isOffered()).map((each) => (
            <a key={each.name} href={link(each.name)} aria-current={each === current ? 'page' : undefined}>
              {each.title}
            </a>
          ))}
        </nav>
        <label class="theme">
          <span class="hidden">{T.theme.label}</span>
          <select value={theme.value} onChange={(event) => { theme.value = event.currentTarget.value as Theme; }}>
            <option value="auto">{T.theme.auto}</option>
            <option value="light">{T.theme.light}</option>
            <option value="dark">{T.theme.dark}</option>
          </select>
        </label>
        {principal.value && <span class="quiet">{principal.value}</span>}
        {isSignedIn.value && <a href={signOutUrl()}>{T.key.signOut}</a>}
        <button type="button" onClick={() => setKeyOpen(true)}>
          {T.key.button}
        </button>
      </header>
      <div role="status">
        {isAway.value ? <p class="stale away">{T.away}</p> : staleness() && <p class="stale">{T.stale(staleness()!.message)}</p>}
      </div>
      <main id="content" tabIndex={-1}>
        <Safe key={`${visit.value} ${current.name}`}>
          {current.isOffered() ? <current.show /> : <p class="empty">{T.notYours}</p>}
        </Safe>
      </main>
      <Notices />
      {(isKeyOpen || isKeyWanted.value) && <KeyDialog onClose={() => { setKeyOpen(false); declineKey(); }} />}
    </>
  );
}

/** What cannot be shown takes nothing else of the page with it. */
class Safe extends Component<{ children: ComponentChildren }, { error?: Error }> {
  override componentDidCatch(error: Error) {
    this.setState({ error });
  }

  render() {
    const { error } = this.state;
    if (!error) return this.props.children;
    return <Trouble error={new Error(`${T.broken} ${error.message}`)} again={() => this.setState({ error: undefined as never })} />;
  }
}

function KeyDialog({ onClose }: { onClose: () => void }) {
  const [text, setText] = useState(key.value);
  const [wrong, setWrong] = useState<string>();
  return (
    <Dialog
      title={T.key.title}
      submit={T.key.use}
      onClose={onClose}
      onSubmit={() => {
        // Other signs a header cannot carry.
        if (!/^[\x20-\x7e]*$/.test(text.trim())) return setWrong(T.key.noKey);
        onClose();
        useKey(text.trim());
      }}
      error={wrong ?? (isKeyWanted.value && key.value ? T.key.refused : undefined)}
      more={key.value && <button type="button" onClick={() => { onClose(); useKey(''); }}>{T.key.forget}</button>}
    >
      {providers.length > 0 && (
        <p>
          {!isSignedIn.value && T.key.signInWhy}{' '}
          {providers.map((each) => (
            <>
              <a href={signInUrl(each)}>{providers.length > 1 ? T.key.signInBy(each) : T.key.signIn}</a>{' '}
            </>
          ))}
        </p>
      )}
      <p>{T.key.why}</p>
      <label>
        {T.key.label}
        <input type="password" autocomplete="off" value={text} onInput={(event) => setText(event.currentTarget.value)} />
      </label>
    </Dialog>
  );
}
