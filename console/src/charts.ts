// A file of its own, loaded by the first view that draws: the others need not wait for it.
export { default } from 'uplot';
