// A dashboard as Grafana draws it, by Grafana's own components. What it draws is in the page: `window.DRAWN`.
import React from 'react';
import { createRoot } from 'react-dom/client';
import {
  FieldType,
  MappingType,
  ThresholdsMode,
  createDataFrame,
  createTheme,
  dateTime,
  getDisplayProcessor,
  getFieldDisplayName,
  getValueFormats,
  reduceField,
} from '@grafana/data';
import { BigValue, GlobalStyles, PanelChrome, ThemeContext, TimeSeries } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';

const { board, results, range, annotations, values } = window.DRAWN;
const theme = createTheme({ colors: { mode: 'dark' } });
// As Grafana has it.
const [COLUMN, CELL, GAP] = [24, 30, 8];
const WIDTH = 1600;
const timeRange = { from: dateTime(range.from * 1000), to: dateTime(range.to * 1000), raw: { from: 'now-6h', to: 'now' } };
const known = new Set(getValueFormats().flatMap(({ submenu }) => submenu.map(({ value }) => value)));

const TYPES = { time: FieldType.time, number: FieldType.number, boolean: FieldType.boolean, string: FieldType.string, other: FieldType.other };

/** The configuration of a field: the panel's, with what it has for this column. */
function configured(panel, field, name) {
  const { defaults, overrides } = panel.fieldConfig;
  const config = structuredClone({ ...defaults, ...field.config });
  // Text has no unit.
  if (field.type === FieldType.string || field.type === FieldType.other) delete config.unit;
  for (const { matcher, properties } of overrides) {
    if (matcher.id !== 'byRegexp' && matcher.options !== name) continue;
    for (const { id, value } of properties) {
      if (id.startsWith('custom.')) {
        const keys = id.slice('custom.'.length).split('.');
        const last = keys.pop();
        let at = (config.custom ??= {});
        for (const key of keys) at = at[key] ??= {};
        at[last] = value;
      } else {
        config[id] = value;
      }
    }
  }
  if (config.unit && !config.unit.startsWith('time:') && !known.has(config.unit)) throw new Error(`${panel.title}: Grafana has no unit ${config.unit}`);
  return config;
}

/** Frames with everything that drawing needs. */
function prepared(panel, frames) {
  let index = 0;
  return frames.map(({ fields }) => {
    const frame = createDataFrame({ fields: fields.map((field) => ({ ...field, type: TYPES[field.type], config: {} })) });
    for (const field of frame.fields) {
      const label = panel.fieldConfig.defaults.displayName?.match(/labels\.(\w+)/)?.[1];
      const shown = field.labels?.[label] ?? field.labels?.legend ?? field.name;
      field.config = configured(panel, field, panel.type === 'table' ? field.name : shown);
      if (field.type === FieldType.number && panel.type === 'timeseries') {
        field.config.displayName = shown;
        field.state = { seriesIndex: index++ };
      } else if (panel.type === 'timeseries') {
        delete field.config.displayName;
        delete field.config.unit;
      }
      if (panel.type === 'table') field.state = { displayName: field.config.displayName ?? field.name };
      field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
      const { links } = field.config;
      if (links?.length) field.getLinks = () => links.map(({ title }) => ({ href: '#', title, target: '_self', origin: field }));
    }
    return frame;
  });
}

const centred = { display: 'flex', alignItems: 'center', justifyContent: 'center', height: '100%', color: theme.colors.text.secondary, textAlign: 'center', padding: 12 };

/** Lines where something was found or done, as Grafana's plugin draws them. */
function marks(builder) {
  builder.addHook('draw', (plot) => {
    const { ctx, bbox } = plot;
    ctx.save();
    for (const { time, color } of annotations) {
      const x = plot.valToPos(time, 'x', true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = theme.visualization.getColorByName(color);
      ctx.setLineDash([4, 4]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  });
  return null;
}

function Body({ panel, frames, width, height }) {
  const nothing = !frames.some(({ fields }) => fields.some(({ values }) => values.some((value) => value !== null)));
  if (nothing) {
    if (panel.type !== 'stat') return <div style={centred}>{panel.fieldConfig.defaults.noValue}</div>;
  }
  const ready = prepared(panel, frames);
  if (panel.type === 'timeseries') {
    const series = ready.map((frame) => ({ ...frame, fields: frame.fields }));
    return (
      <TimeSeries frames={series} width={width} height={height} timeRange={timeRange} timeZone="utc" legend={panel.options.legend}>
        {marks}
      </TimeSeries>
    );
  }
  if (panel.type === 'table') {
    const field = panel.fieldConfig;
    return (
      <TableNG data={ready[0]} width={width} height={height} cellHeight={panel.options.cellHeight} fieldConfig={field} noValue={field.defaults.noValue} enableVirtualization={false} />
    );
  }
  const field = ready[0]?.fields.find(({ type }) => type !== FieldType.time || panel.fieldConfig.defaults.unit.startsWith('dateTime'));
  let shown = { text: panel.fieldConfig.defaults.noValue, numeric: NaN, color: theme.colors.text.primary };
  if (field && !nothing) shown = field.display(reduceField({ field, reducers: ['lastNotNull'] }).lastNotNull);
  // Where Grafana has no value it takes the lowest colour.
  if (nothing) shown.color = theme.visualization.getColorByName(panel.fieldConfig.defaults.thresholds.steps[0].color);
  return <BigValue value={shown} width={width} height={height} theme={theme} colorMode={panel.options.colorMode} graphMode="none" justifyMode="auto" textMode="value" />;
}

function Panel({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const unit = (WIDTH - GAP) / COLUMN;
  const width = w * unit - GAP;
  const height = h * CELL + (h - 1) * GAP;
  const { frames, error } = results[panel.id];
  if (error) throw new Error(`${panel.title}: ${error}`);
  return (
    <div style={{ position: 'absolute', left: GAP + x * unit, top: y * (CELL + GAP), width, height }}>
      <PanelChrome title={panel.title} description={panel.description} width={width} height={height}>
        {(innerWidth, innerHeight) => <Body panel={panel} frames={frames} width={innerWidth} height={innerHeight} />}
      </PanelChrome>
    </div>
  );
}

const pill = { display: 'inline-flex', border: `1px solid ${theme.colors.border.medium}`, borderRadius: 2, marginRight: 8, fontSize: 12, lineHeight: '28px' };
const name = { background: theme.colors.background.secondary, padding: '0 8px', fontWeight: 500 };

function Page() {
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <div style={{ width: WIDTH, background: theme.colors.background.canvas, color: theme.colors.text.primary, fontFamily: theme.typography.fontFamily }}>
        <div style={{ padding: '12px 8px', display: 'flex', alignItems: 'center' }}>
          <div style={{ fontSize: 16, fontWeight: 500, marginRight: 24 }}>{board.title}</div>
          {board.templating.list
            .filter(({ type }) => type !== 'datasource')
            .map((variable) => (
              <div key={variable.name} style={pill}>
                <span style={name}>{variable.label}</span>
                <span style={{ padding: '0 8px' }}>{values[variable.name] === '$__all' ? 'All' : values[variable.name]}</span>
              </div>
            ))}
        </div>
        <div style={{ position: 'relative', height: window.DRAWN.height }}>
          {board.panels.filter(({ type }) => type !== 'row').map((panel) => <Panel key={panel.id} panel={panel} />)}
        </div>
      </div>
    </ThemeContext.Provider>
  );
}

/** What went wrong stands in the page's title, which the program that draws it reads. */
class Guard extends React.Component {
  state = {};
  static getDerivedStateFromError(error) {
    document.title = `failed: ${error.message}`;
    return { error };
  }
  render() {
    return this.state.error ? <pre>{String(this.state.error.stack)}</pre> : this.props.children;
  }
}

createRoot(document.getElementById('page')).render(
  <Guard>
    <Page />
  </Guard>,
);
