import type uPlot from 'uplot';

export type Plot = uPlot;
type Options = ConstructorParameters<typeof uPlot>[0];
export type Drawn = ConstructorParameters<typeof uPlot>[1];

/** uPlot, once it is loaded. */
export async function plot(options: Options, data: Drawn, element: HTMLElement): Promise<Plot> {
  const { default: Plotter } = await import('./charts.js');
  return new Plotter(options, data, element);
}
