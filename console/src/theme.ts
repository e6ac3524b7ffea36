// Light, dark, or as the system is. Kept for the next visit; it is no secret.

import { effect, signal } from '@preact/signals';

export type Theme = 'auto' | 'light' | 'dark';
const NAME = 'agent-storage-theme';
const kept = localStorage.getItem(NAME);

export const theme = signal<Theme>(kept === 'light' || kept === 'dark' ? kept : 'auto');
effect(() => {
  const chosen = theme.value;
  if (chosen === 'auto') {
    delete document.documentElement.dataset.theme;
    localStorage.removeItem(NAME);
  } else {
    document.documentElement.dataset.theme = chosen;
    localStorage.setItem(NAME, chosen);
  }
});
