// A new task: a form that is made of its action's schema, or its payload as JSON.

import { useRef, useState } from 'preact/hooks';
import { json } from '../api';
import { numberOf, parse } from '../exact';
import { useLoaded } from '../load';
import type { Action, Task } from '../model';
import { T } from '../texts';
import { mayName, namesOf } from '../rights';
import { tell, Trouble } from '../ui/notices';
import { useUnsaved } from '../unsaved';
import { Field, Fields, isRecord, kindOf, missing, resolved } from './fields';

interface Props {
  like?: Task;
  /** Of which the form is, if there is one of that name. */
  action?: string;
  onAction?: (name: string) => void;
  onClose: () => void;
  onDone: (id: string) => void;
}

export function Submit(props: Props) {
  const { like, onClose } = props;
  const { value, error, again } = useLoaded((signal) => json<{ actions: Action[] }>('GET', 'actions', { signal }), []);
  return (
    <>
      <div class="title">
        <h2>{like ? T.tasks.editAndRetry : T.tasks.submit}</h2>
        <button type="button" class="plain" aria-label={T.close} onClick={onClose}>×</button>
      </div>
      {error && <Trouble error={error} again={again} />}
      {value && <Form {...props} actions={value.actions} />}
    </>
  );
}

function Form({ actions, like, action: asked, onAction, onClose, onDone }: Props & { actions: Action[] }) {
  const [name, setName] = useState(like?.action ?? (actions.find((each) => each.name === asked) ?? actions[0])?.name ?? '');
  const action = actions.find((each) => each.name === name);
  const [agent, setAgent] = useState(like?.agent_id ?? (mayName('tasks', 'console') ? 'console' : (namesOf('tasks')[0] ?? '')));
  const [delay, setDelay] = useState('');
  const [isHigh, setHigh] = useState(like?.priority === 'high');
  const [payload, setPayload] = useState<unknown>(like?.payload ?? {});
  const [text, setText] = useState<string>();
  const [error, setError] = useState<string>();
  const [isBusy, setBusy] = useState(false);
  const [before] = useState(() => JSON.stringify(like?.payload ?? {}));
  const settle = useUnsaved(text === undefined ? JSON.stringify(payload) !== before : text !== JSON.stringify(like?.payload ?? {}, null, 2));
  const root = action?.payload_schema ?? {};
  const schema = resolved(root, root);
  const hasForm = isRecord(payload) && (schema.anyOf ? schema.anyOf.every((each) => kindOf(each) === 'object') : kindOf(schema) === 'object');
  const isForm = hasForm && text === undefined;
  /** What was typed and is no value, by its field. */
  const bad = useRef(new Map<string, string>()).current;
  const onBad = (id: string, path?: string) => void (path === undefined ? bad.delete(id) : bad.set(id, path));

  const submit = async () => {
    setError(undefined);
    let given = payload;
    if (!isForm) {
      try {
        given = (text ?? '').trim() ? parse(text ?? 'null') : text === undefined ? payload : null;
      } catch (problem) {
        return setError(T.tasks.badPayload((problem as Error).message));
      }
    } else {
      const [wrong] = bad.values();
      if (wrong) return setError(T.tasks.badField(wrong));
      const wanted = missing(schema, root, payload);
      if (wanted) return setError(T.tasks.required(wanted));
    }
    setBusy(true);
    try {
      const seconds = numberOf(delay, T.tasks.delay, T.noNumber);
      const made = await json<Task>('POST', 'tasks', {
        json: {
          action: name,
          agent_id: agent,
          payload: given,
          priority: isHigh ? 'high' : 'normal',
          ...(seconds === undefined ? {} : { delay_seconds: seconds }),
        },
      });
      tell(T.tasks.submitted(made.task_id));
      settle();
      onDone(made.task_id);
    } catch (problem) {
      setError((problem as Error).message);
    } finally {
      setBusy(false);
    }
  };

  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        void submit();
      }}
    >
      <label>
        {T.tasks.action}
        <select
          value={name}
          onChange={(event) => {
            setName(event.currentTarget.value);
            onAction?.(event.currentTarget.value);
            setPayload({});
            setText(undefined);
          }}
        >
          {!action && <option>{name}</option>}
          {actions.map((each) => <option key={each.name}>{each.name}</option>)}
        </select>
      </label>
      {action && <p class="quiet">{action.description}</p>}
      <label>
        {T.tasks.agent}
        <input value={agent} required onInput={(event) => setAgent(event.currentTarget.value)} />
      </label>
      <fieldset>
        <legend>{T.tasks.payload}</legend>
        {hasForm && (
          <button
            type="button"
            onClick={() => {
              if (text === undefined) return setText(JSON.stringify(payload, null, 2));
              try {
                const read = parse(text || '{}');
                if (!isRecord(read)) throw new Error('it is no object');
                setPayload(read);
                setText(undefined);
                setError(undefined);
              } catch (problem) {
                setError(T.tasks.badPayload((problem as Error).message));
              }
            }}
          >
            {isForm ? T.tasks.asJson : T.tasks.asForm}
          </button>
        )}
        {isForm ? (
          schema.anyOf ? (
            <Field path={T.tasks.payload} schema={schema} root={root} value={payload} isRequired onChange={setPayload} onBad={onBad} />
          ) : (
            <Fields key={name} path="" schema={schema} root={root} value={payload} onChange={setPayload} onBad={onBad} />
          )
        ) : (
          <textarea
            rows={12}
            aria-label={T.tasks.payload}
            spellcheck={false}
            value={text ?? JSON.stringify(payload, null, 2)}
            onInput={(event) => setText(event.currentTarget.value)}
          />
        )}
      </fieldset>
      <label>
        {T.tasks.delay}
        <input inputMode="decimal" value={delay} onInput={(event) => setDelay(event.currentTarget.value)} />
      </label>
      <label class="check">
        <input type="checkbox" checked={isHigh} onChange={(event) => setHigh(event.currentTarget.checked)} /> {T.tasks.priority}: high
      </label>
      {error && <p class="error" role="alert">{error}</p>}
      <div class="buttons">
        <button type="button" onClick={() => { settle(); onClose(); }}>{T.cancel}</button>
        <button type="submit" class="primary" disabled={isBusy}>{T.tasks.submit}</button>
      </div>
    </form>
  );
}
