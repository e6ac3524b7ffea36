// A question in the middle of the page. The browser's own element keeps the focus inside, and Escape closes it.

import type { ComponentChildren } from 'preact';
import { useEffect, useId, useRef } from 'preact/hooks';
import { T } from '../texts';
import { mayLeave, useUnsaved } from '../unsaved';

/** The list, or where there is none, the content: for what closes under the user's hands. */
export function focusContent(): void {
  const list = document.querySelector<HTMLElement>('.virtual');
  (list?.offsetParent ? list : document.getElementById('content'))?.focus();
}

interface Props {
  title: string;
  onClose: () => void;
  onSubmit?: () => void;
  submit?: string;
  isDangerous?: boolean;
  isBusy?: boolean;
  /** Whether something was typed that closing it loses. */
  isChanged?: boolean;
  error?: string | undefined;
  children?: ComponentChildren;
  more?: ComponentChildren;
}

export function Dialog({ title, onClose, onSubmit, submit, isDangerous, isBusy, isChanged = false, error, children, more }: Props) {
  const element = useRef<HTMLDialogElement>(null);
  const name = useId();
  const settle = useUnsaved(isChanged);
  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    element.current!.showModal();
    return () => {
      // Removed while it is open, it does not give the focus back by itself; and what had it may be gone.
      setTimeout(() => {
        if (document.activeElement && document.activeElement !== document.body) return;
        if (before?.isConnected && before !== document.body) before.focus();
        if (document.activeElement === document.body) focusContent();
      });
    };
  }, []);
  return (
    <dialog ref={element} onClose={onClose} onCancel={(event) => isChanged && !mayLeave() && event.preventDefault()} aria-labelledby={name}>
      <form
        method="dialog"
        onSubmit={(event) => {
          event.preventDefault();
          onSubmit?.();
        }}
      >
        <h2 id={name}>{title}</h2>
        {children}
        {error && (
          <p class="error" role="alert">
            {error}
          </p>
        )}
        <div class="buttons">
          {more}
          <button type="button" onClick={() => { settle(); element.current!.close(); }}>
            {onSubmit ? T.cancel : T.close}
          </button>
          {onSubmit && (
            <button type="submit" class={isDangerous ? 'danger' : 'primary'} disabled={isBusy}>
              {submit ?? T.save}
            </button>
          )}
        </div>
      </form>
    </dialog>
  );
}
